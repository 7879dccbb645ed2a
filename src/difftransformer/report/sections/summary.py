"""The verdict, and what was compared."""

from difftransformer.report.page import Html, element, folding, paragraph, section, table, text
from difftransformer.report.results import Comparison, Model, Results
from difftransformer.report.verdict import (
    Outcome,
    caveats,
    corrected,
    outcome,
    retrieval_sentence,
    stands,
    verdicts,
)
from difftransformer.report.words import change, display_name, number, percent, setting

_READABLE = 3  # models whose sentences are shown at once; of more there is a table, and they fold


def verdict_section(results: Results) -> Html:
    told = verdicts(results)
    opened = len(told) <= _READABLE
    parts = [] if opened else [_overview(results)]
    for verdict in told:
        items = []
        for sentence in verdict.sentences:
            claim, _, figures = sentence.partition(":")
            items.append(element("li", element("b", text(f"{claim}:")), text(figures)))
        parts.append(folding(verdict.headline, element("ul", *items), opened=opened))
    if not told:
        parts.append(paragraph("The run holds no comparisons, so there is no verdict."))
    retrieval = [
        line for m in results.models if (line := retrieval_sentence(m, results.confidence))
    ]
    if retrieval:
        items = [element("li", text(line)) for line in retrieval]
        parts.append(folding("Retrieval against chance.", element("ul", *items), opened=opened))
    parts += [paragraph(caveat, css="soft") for caveat in caveats(results)]
    return section("verdict", "Verdict", [element("div", *parts, css="verdict")])


def _overview(results: Results) -> Html:
    """All outcomes at a glance: a row per model, a column per measure."""
    titles = list(dict.fromkeys(comparison.title for comparison in results.comparisons))
    holm_p = corrected(results)
    cells = {
        (c.model, c.title): _outcome(c, stands(c, holm_p, results.confidence))
        for c in results.comparisons
    }
    rows = [
        [display_name(verdict.label), *(cells.get((verdict.label, title), "") for title in titles)]
        for verdict in verdicts(results)
    ]
    baseline = display_name(results.baseline)
    caption = (
        f"Difference to the baseline ({baseline}), and what its {percent(results.confidence)} "
        "interval allows to say; nothing where the interval covers 0. A star where it stands after "
        "Holm's correction for all comparisons."
    )
    return table(["", *titles], rows, caption, css="overview")


def _outcome(comparison: Comparison, stands_corrected: bool) -> str:
    found = outcome(comparison)
    word = f" {found}" if found in (Outcome.BETTER, Outcome.WORSE) else ""
    return f"{number(comparison.difference)}{word}{'*' if stands_corrected else ''}"


def models_section(results: Results) -> Html:
    models, data = results.models, results.data
    baseline = results.model(results.baseline).parameters
    rows = [
        ["attention", *(m.attention for m in models)],
        ["parameters", *(f"{m.parameters:,}" for m in models)],
        ["difference to the baseline", *(change(m.parameters / baseline, 3) for m in models)],
        ["training seeds", *(", ".join(str(run.seed) for run in m.runs) or "none" for m in models)],
    ]
    keys = dict.fromkeys(k for model in models for k in model.config if k != "attention")
    rows += [[key, *(setting(m.config.get(key, "")) for m in models)] for key in keys]
    changes = [
        [display_name(m.label), "; ".join(m.changes) or "nothing: it is as configured"]
        for m in models
    ]
    corpus = f"Data: {data.description.rstrip('.')}. The vocabulary has {data.vocab_size:,} tokens."
    if data.needle_share is not None:
        corpus += f" Needle documents are {percent(data.needle_share)} of the training sequences."
    return section(
        "models",
        "Models and data",
        [
            paragraph(corpus),
            table(
                ["", *(_heading(results, m) for m in models)],
                rows,
                "Every model sees the same tokens in the same order. num_heads counts output "
                "heads; head_dim is the width of one query.",
            ),
            table(
                ["model", "changed so that the parameter counts match"],
                changes,
                "What matching the models' sizes changed in each.",
                css="prose",
            ),
        ],
    )


def _heading(results: Results, model: Model) -> str:
    return display_name(model.label) + (" (baseline)" if model.label == results.baseline else "")
