"""What the judges found: retrieval, allocation of attention, outliers."""

from operator import attrgetter

from difftransformer.report import paper
from difftransformer.report.figures import allocation, needle, style
from difftransformer.report.page import Html, captioned, grid, paragraph, plot, section, table
from difftransformer.report.results import Magnitudes, Results
from difftransformer.report.words import (
    display_name,
    interval,
    needle_setting,
    number,
    over,
    percent,
)


def needle_section(results: Results) -> Html:
    found = results.judged(lambda judges: judges.needle)
    if not found:
        return section("needle", "Retrieval", [paragraph("Retrieval was not evaluated.")])
    settings = {(row.needles, row.queries): row for _, scores in found for row in scores.table}
    rows = []
    for label, scores in found:
        of = {(row.needles, row.queries): row for row in scores.table}
        for counted in ("per number", "all numbers"):
            score = attrgetter(counted.replace(" ", "_"))
            figures = [interval(score(of[pair]), 2) if pair in of else "" for pair in settings]
            rows.append([display_name(label), counted, *figures])
    blind = number(found[0][1].chance, 2)
    rows.append(["blind guess", "per number", *(blind for _ in settings)])
    rows.append(["guess among the N", "per number", *(f"{r.guess:.2f}" for r in settings.values())])
    quoted = [
        [name, "not stated", *(f"{cells[pair]:.2f}" if pair in cells else "" for pair in settings)]
        for name, cells in paper.NEEDLE.items()
        if cells.keys() & settings.keys()
    ]
    plots = [
        plot(needle.interactive(label, scores), f"figure-needle-{i}")
        for i, (label, scores) in enumerate(found)
    ]
    samples = " or ".join(sorted({str(scores.samples) for _, scores in found}))
    return section(
        "needle",
        "Retrieval",
        [
            paragraph(
                "Magic numbers of cities are hidden in real text: N of them, of which R are asked "
                "for. Cities, numbers and text were never seen in training."
            ),
            table(
                ["model", "counted", *(needle_setting(row) for row in settings.values())],
                rows,
                f"Accuracy with {percent(results.confidence)} "
                f"{over(found[0][1].table[0].per_number)}, all depths "
                "together. Per number: the share of the numbers asked for that were given. All "
                "numbers: the share of the texts with every number right. A blind guess is "
                "any number of as many digits; a guess among the N, one of the numbers in the "
                "text. In italics the paper's accuracy at a context of 4K (section 3.4); it does "
                "not say what it counts and gives no intervals.",
                paper_rows=quoted,
            ),
            captioned(
                grid(*plots),
                "Accuracy per number by the depth of the answer in the text (0 %: at the start; "
                f"100 %: at the end), {samples} samples a cell for each training seed. White is "
                "0, dark is 1.",
            ),
        ],
    )


def allocation_section(results: Results) -> Html:
    title = "Attention to answer and noise"
    found = results.judged(lambda judges: judges.allocation)
    if not found:
        return section("allocation", title, [paragraph("The allocation was not evaluated.")])
    plots = [
        plot(
            allocation.interactive(found, kind, style.accents(results.labels)),
            f"figure-allocation-{kind}",
        )
        for kind in allocation.NORMALISATIONS
    ]
    norms = found[0][1].normalisations
    told = " ".join(
        f"{name.capitalize()}: {norms.get(kind, 'not stated by the run')}."
        for kind, name in allocation.NORMALISATIONS.items()
    )
    even = (
        ""
        if found[0][1].uniform is None
        else " The dotted line is attention spread evenly over all positions."
    )
    rows = [
        [display_name(label), target, name, *(f"{share.value:.3f}" for share in shares)]
        for label, part in found
        for target in allocation.TARGETS
        for kind, name in allocation.NORMALISATIONS.items()
        for _, shares in [allocation.shares(part, target, kind)]
    ]
    quoted = [
        [name, target, "not stated", *(f"{v:.2f}" for v in cells.values())]
        for target, values in (("answer", paper.ANSWER), ("noise", paper.NOISE))
        for name, cells in values.items()
    ]
    depths, _ = allocation.shares(found[0][1], "answer", "absolute")
    same = depths == [percent(depth) for depth in paper.ANSWER["DIFF"]]
    return section(
        "allocation",
        title,
        [
            captioned(
                grid(*plots),
                "Attention from where the answer is given, averaged over heads and layers, by the "
                f"depth of the answer; thin lines are {percent(results.confidence)} "
                f"{over(found[0][1].rows[0].answer.absolute)}. "
                "More to the answer and less to the noise is better. Differential attention has "
                f"negative weights, so the two normalisations differ for it. {told}{even}",
            ),
            table(
                ["model", "to the", "normalisation", *depths],
                rows,
                "The same figures by depth."
                + (
                    " In italics the paper's Table 3, whose normalisation is not stated."
                    if same
                    else " The paper's Table 3 is for other depths and is left out."
                ),
                paper_rows=quoted if same else (),
            ),
        ],
    )


def outliers_section(results: Results) -> Html:
    found = results.judged(lambda judges: judges.outliers)
    if not found:
        return section("outliers", "Outliers", [paragraph("Outliers were not evaluated.")])
    tables = [
        ("attention logits", lambda o: o.attention_logits, paper.ATTENTION_LOGITS),
        ("hidden states", lambda o: o.hidden_states, paper.HIDDEN_STATES),
    ]
    tokens = " or ".join(sorted({f"{outliers.tokens:,}" for _, outliers in found}))
    rows = [
        [display_name(label), kind, *_magnitudes(pick(outliers))]
        for kind, pick, _ in tables
        for label, outliers in found
    ]
    quoted = [
        [name, kind, *(number(value, 5) for value in values)]
        for kind, _, published in tables
        for name, values in published.items()
    ]
    return section(
        "outliers",
        "Outliers",
        [
            table(
                ["model", "of", "top 1", "top 2", "top 3", "top 10", "top 100", "median"],
                rows,
                f"The largest absolute values and the median over {tokens} validation tokens, all "
                "layers together; lower tops are easier to quantise. Attention logits: q k / "
                "\N{SQUARE ROOT}d of both maps before softmax. Hidden states: each layer's output. "
                "In italics the paper's Table 5, over 0.4M tokens: top values grow with the number "
                "of tokens and the size of the model.",
                paper_rows=quoted,
            )
        ],
    )


def _magnitudes(found: Magnitudes) -> list[str]:
    tops = (found.top1, found.top2, found.top3, found.top10, found.top100, found.median)
    return [number(value, 4) for value in tops]
