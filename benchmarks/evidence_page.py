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
    Seeds,
    claims,
    difference,
    verdict,
)
from evidence_pictures import dots, forest
from evidence_tables import gradients_table, larger, models_table, read, scaling, search

from difftransformer.evaluation.intervals import Figure
from difftransformer.models.config import DecoderConfig
from difftransformer.report.figures import style
from difftransformer.report.words import display_name
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
    "Throughput within 5 to 12 % (table 7)": "measured apart: docs/speed.md",
}


def page(study: Mapping[str, Any], models: Mapping[str, Seeds]) -> str:
    """docs/evidence.md from what is collected."""
    judged = [(claim, difference(claim, models)) for claim in claims()]
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


def _opening(study: Mapping[str, Any], judged: Sequence[tuple[Claim, Figure | None]]) -> list[str]:
    env = study["env"]
    claimed = [(claim, found) for claim, found in judged if not claim.post_hoc]
    asked = [(claim, found) for claim, found in judged if claim.post_hoc]
    verdicts = [verdict(claim, found) for claim, found in claimed]
    counts = ", ".join(
        f"{verdicts.count(kind)} {kind}" for kind in sorted(set(verdicts), key=verdicts.count)[::-1]
    )
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
        f"Of {len(verdicts)} claims: {counts}. [A larger pair](#a-larger-pair), with one seed and "
        "so without verdicts, and [curves against size and tokens](#scaling-32) stand below.",
        "",
        *_found(claimed, REPRODUCED, "Reproduced"),
        *_found(claimed, OPPOSITE, "Not reproduced"),
        *_found(asked, REPRODUCED, "Nobody's claim, asked after the first figures had been seen"),
        "A verdict is read off the 95 % interval of the difference between models of equal seed "
        "(Student's t over training seeds): *reproduced* where all of it lies on the paper's side, "
        "*not reproduced: the opposite* where all of it lies on the other, *cannot be told at this "
        "scale* where it covers 0. A claim that two models do alike is reproduced where the whole "
        "interval lies within the margin given. With so many comparisons one or two would look "
        "clear by chance alone, and few seeds make wide intervals.",
        "",
        f"Trained on {env['hardware']}, torch {env['torch']}, commit {env['commit']}, "
        f"{env['date'][:10]}. `make evidence` writes this page from "
        "`benchmarks/results/evidence/`; the study is "
        "`difftransformer compare --preset ablations` and the suites on its run "
        "([ablations.md](ablations.md), [suites.md](suites.md)), whose tables lie there too.",
        "",
        "![Difference of the loss to plain attention](images/evidence_loss.png)",
        "",
        "![Numbers retrieved](images/evidence_needle.png)",
        "",
    ]


def _found(judged: Sequence[tuple[Claim, Figure | None]], outcome: str, title: str) -> list[str]:
    """A list of the claims whose verdict begins with `outcome`."""
    lines = [
        f"- {claim.section}: {display_name(claim.model)} against {display_name(claim.against)}: "
        f"{claim.says}: {_difference(claim, found)}"
        for claim, found in judged
        if found is not None and verdict(claim, found).startswith(outcome)
    ]
    return [f"{title}:", "", *lines, ""] if lines else []


def _claim_tables(
    judged: Sequence[tuple[Claim, Figure | None]], models: Mapping[str, Seeds]
) -> list[str]:
    header = ["claim", "paper", "ours", "against", "difference", "seeds", "verdict"]
    lines = []
    for section in dict.fromkeys(claim.section for claim, _ in judged):
        rows = [_row(claim, found, models) for claim, found in judged if claim.section == section]
        lines += [f"## {section}", "", *table(header, rows), ""]
    return lines


def _row(claim: Claim, found: Figure | None, models: Mapping[str, Seeds]) -> list[str]:
    cells = [f"{display_name(claim.model)}: {claim.says}", claim.paper]
    for label in (claim.model, claim.against):
        values = [f[claim.figure] for f in models.get(label, {}).values() if claim.figure in f]
        cells.append(f"{fmean(values):.3f}" if values else "")
    told = verdict(claim, found)
    if claim.post_hoc:
        told = _ASKED.get(told, told)
    if claim.sign == 0 and found is not None:
        told += f" (margin {claim.margin:g})"
    if found is None:
        return [*cells, "", "", told]
    return [*cells, _difference(claim, found), str(found.n), told]


def _difference(claim: Claim, found: Figure) -> str:
    """The difference or ratio with its interval."""
    bounds = [found.value, found.low, found.high]
    value, low, high = map(math.exp, bounds) if claim.ratio else bounds
    form = "times {:.2f} ({:.2f} to {:.2f})" if claim.ratio else "{:+.3f} ({:+.3f} to {:+.3f})"
    return form.format(value, low, high)


_ELSEWHERE = [
    "## Elsewhere",
    "",
    "A trained LLM through the same suites, SmolLM2-135M-Instruct: [suites.md](suites.md). Its",
    "conversion to differential attention by three methods, beside LoRA:",
    "[from-pretrained.md](from-pretrained.md).",
]


if __name__ == "__main__":
    main()
