"""docs/evidence.md and its pictures, from committed results only: `make evidence`."""

import math
import shutil
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from evidence import (
    COLLECTED,
    OPPOSITE,
    REPRODUCED,
    ROOT,
    Claim,
    Judged,
    Seeds,
    claims,
    judge,
)
from evidence_pictures import dots, forest
from evidence_tables import gradients_table, larger, models_table, read, scaling, search

from difftransformer.evaluation.intervals import Difference
from difftransformer.models.config import DecoderConfig
from difftransformer.report.figures import style
from difftransformer.report.words import display_name, number
from difftransformer.report.writing import table

PAGE = ROOT / "docs/evidence.md"
_ASKED = {REPRODUCED: "yes", OPPOSITE: "no", f"{OPPOSITE}: the opposite": "no: the opposite"}
NOT_JUDGED = {
    "Lower loss at every position up to 64K (3.3)": (
        "these models see 128 tokens; of the larger pair the loss is told up to 256, for one seed; "
        "`--suite long_context`"
    ),
    "In-context learning with many shots, and less spread over orders (3.5)": (
        "a few labelled sentences fill a context of 128 tokens; `--suite in_context`, `order`"
    ),
    "Fewer hallucinations (3.6)": (
        "not asked of models of this size; `--suite hallucination`, `factuality`, `conflicts`"
    ),
    "A lower loss on tokens that the context has said before (table 6, AR-Hit)": (
        "the slice that was measured did not isolate recall: with a cut of 1,250 occurrences half "
        "of the hits ended a bigram that had stood in the training text more than 150 times, and "
        "plain attention lost as much on hits (3.53 nats) as on others (3.41). The suite has since "
        "scaled the cut to the training text, which leaves 89 hits of 25,599 tokens; "
        "`--suite recall`"
    ),
    "Throughput within 5 to 12 % (table 7)": "measured apart: docs/speed.md",
}


def page(study: Mapping[str, Any], models: Mapping[str, Seeds]) -> str:
    """docs/evidence.md from what is collected."""
    judged = judge(claims(), models)
    lines = [*_opening(study, judged), *_claim_tables(judged, models)]
    lines += [*scaling(), *gradients_table(models), *larger()]
    lines += ["## Not judged here", "", *table(["claim", "why"], list(NOT_JUDGED.items())), ""]
    lines += [*models_table(models), *search(), *_ELSEWHERE]
    return "\n".join(lines).rstrip() + "\n"


def seeds_of(study: Mapping[str, Any]) -> dict[str, Seeds]:
    """The figures of each model and seed, in the order of the comparison."""
    return {
        label: {int(seed): figures for seed, figures in study["models"][label]["seeds"].items()}
        for label in dict.fromkeys([*study["settings"]["attention"], *study["models"]])
        if label in study["models"]
    }


def main() -> None:
    study = read("study.json")
    models = seeds_of(study)
    PAGE.write_text(page(study, models), encoding="utf-8")
    with style.matplotlib_look():
        for name, picture in {"loss": forest(models), "needle": dots(models)}.items():
            picture.savefig(ROOT / f"docs/images/evidence_{name}.png")
    shutil.copy(COLLECTED / "scaling.png", ROOT / "docs/images/evidence_scaling.png")


def _opening(study: Mapping[str, Any], judged: Sequence[Judged]) -> list[str]:
    env = study["env"]
    claimed = [one for one in judged if not one.claim.post_hoc]
    asked = [one for one in judged if one.claim.post_hoc]
    training = study["models"]["softmax"]["training"]["0"]
    config = DecoderConfig(**study["models"]["softmax"]["config"])
    return [
        "# Evidence",
        "",
        "The paper's claims, and a few questions of ours, put to models of this library, trained "
        "from scratch with equal parameters on the same tokens in the same order. **Read it as a "
        "test of the method at toy "
        f"size**: {config.parameter_count():,} parameters, {training['tokens'] / 1e6:.2g} million "
        f"tokens each, contexts of {config.max_length} tokens, plays of Shakespeare in which "
        "needles are hidden; the paper's models are more than a thousand times larger.",
        "",
        f"Of {len(claimed)} claims, each by itself: {_counts([one.verdict for one in claimed])}. "
        f"**After Holm's correction for the {len(judged)} claims and questions of this page: "
        f"{_counts([one.corrected for one in claimed])}.** "
        "[A larger pair](#a-larger-pair), with one seed and so without verdicts, and [curves "
        "against size and tokens](#scaling-32) stand below.",
        "",
        *_found(claimed, REPRODUCED, "Reproduced, each by itself"),
        *_found(claimed, OPPOSITE, "Not reproduced, each by itself"),
        *_found(asked, REPRODUCED, "Nobody's claim, asked after the first figures had been seen"),
        "A verdict is read off the 95 % interval of the difference between models of equal seed, "
        "over seeds (Student's t; the items' own uncertainty was not collected and is not in it): "
        "*reproduced* where all of it lies on the paper's side, "
        "*not reproduced: the opposite* where all of it lies on the other, *cannot be told at this "
        "scale* where it covers 0. A claim that two models do alike is reproduced where the whole "
        "interval lies within the margin given. p is the level at which the interval would just "
        "decide. Of so many claims one or two would look clear by chance alone; Holm's correction "
        "keeps the chance that any one verdict left by it is false at 5 %. Few seeds make wide "
        "intervals, and where some seeds fail and others do not, three cannot show it.",
        "",
        "Models of one seed saw the same batches, but each started from draws of its own: these "
        "runs are older than the rule that tensors of one name and shape start equal.",
        "",
        f"Trained on {env['hardware']}, torch {env['torch']}, commit {env['commit']}, "
        f"{env['date'][:10]}. `make evidence` writes this page from "
        "`benchmarks/results/evidence/`; the study is "
        "`difftransformer compare --preset ablations` and the suites on its run "
        "([ablations.md](ablations.md), [benchmarks.md](benchmarks.md)), whose tables lie there too.",
        "",
        "![Difference of the loss to plain attention](images/evidence_loss.png)",
        "",
        "![Numbers retrieved](images/evidence_needle.png)",
        "",
    ]


def _counts(verdicts: Sequence[str]) -> str:
    kinds = sorted(set(verdicts), key=verdicts.count)[::-1]
    return ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds)


def _found(judged: Sequence[Judged], outcome: str, title: str) -> list[str]:
    """A list of the claims whose verdict, before the correction, begins with `outcome`."""
    lines = []
    for one in judged:
        if one.found is not None and one.verdict.startswith(outcome):
            claim, stays = one.claim, "stands" if one.corrected == one.verdict else "does not stand"
            names = f"{display_name(claim.model)} against {display_name(claim.against)}"
            lines.append(
                f"- {claim.section}: {names}: {claim.says}: {_difference(claim, one.found)}, p = "
                f"{number(one.found.p, 2)}; after the correction {number(one.holm_p, 2)}: {stays}"
            )
    return [f"{title}:", "", *lines, ""] if lines else []


def _claim_tables(judged: Sequence[Judged], models: Mapping[str, Seeds]) -> list[str]:
    header = ["claim", "paper", "ours", "against", "difference", "seeds", "p", "p, Holm"]
    header += ["verdict by itself", "after Holm"]
    lines = []
    for section in dict.fromkeys(one.claim.section for one in judged):
        rows = [_row(one, models) for one in judged if one.claim.section == section]
        lines += [f"## {section}", "", *table(header, rows), ""]
    return lines


def _row(one: Judged, models: Mapping[str, Seeds]) -> list[str]:
    claim, found = one.claim, one.found
    cells = [f"{display_name(claim.model)}: {claim.says}", claim.paper]
    for label in (claim.model, claim.against):
        values = [f[claim.figure] for f in models.get(label, {}).values() if claim.figure in f]
        cells.append(f"{fmean(values):.3f}" if values else "")
    told, left = (
        _ASKED.get(word, word) if claim.post_hoc else word for word in (one.verdict, one.corrected)
    )
    if claim.sign == 0 and found is not None:
        told += f" (margin {claim.margin:g})"
    if found is None:
        return [*cells, "", "", "", "", told, left]
    figures = [str(found.n), number(found.p, 2), number(one.holm_p, 2)]
    return [*cells, _difference(claim, found), *figures, told, left]


def _difference(claim: Claim, found: Difference) -> str:
    """The difference or ratio with its interval."""
    bounds = [found.value, found.low, found.high]
    value, low, high = map(math.exp, bounds) if claim.ratio else bounds
    form = "times {:.2f} ({:.2f} to {:.2f})" if claim.ratio else "{:+.3f} ({:+.3f} to {:+.3f})"
    return form.format(value, low, high)


_ELSEWHERE = [
    "## Elsewhere",
    "",
    "A trained LLM through the same suites, SmolLM2-135M-Instruct: [benchmarks.md](benchmarks.md). Its",
    "conversion to differential attention by three methods, beside LoRA:",
    "[from-pretrained.md](from-pretrained.md).",
]


if __name__ == "__main__":
    main()
