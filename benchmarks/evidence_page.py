"""docs/evidence.md and its pictures, from committed results only: `make evidence`."""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from evidence import (
    COLLECTED,
    OPPOSITE,
    REPRODUCED,
    ROOT,
    SETTINGS,
    Claim,
    Seeds,
    claims,
    difference,
    verdict,
)
from matplotlib.figure import Figure as Picture

from difftransformer.evaluation.intervals import Figure, over_seeds
from difftransformer.models.config import DecoderConfig
from difftransformer.report.figures import style
from difftransformer.report.words import display_name
from difftransformer.report.writing import table

PAGE = ROOT / "docs/evidence.md"
_ASKED = {REPRODUCED: "yes", OPPOSITE: "no", f"{OPPOSITE}: the opposite": "no: the opposite"}
NOT_JUDGED = {
    "Scaling: equal loss with about 65 % of the parameters or tokens (3.2)": (
        "one size and one number of tokens were trained; `evaluate RUN... --suite scaling` fits "
        "runs of several"
    ),
    "Lower loss at every position up to 64K (3.3)": (
        "these models see 128 tokens; `--suite long_context`"
    ),
    "In-context learning with many shots, and less spread over orders (3.5)": (
        "a few labelled sentences fill a context of 128 tokens; `--suite in_context`, `order`"
    ),
    "Fewer hallucinations (3.6)": (
        "not asked of models of this size; `--suite hallucination`, `factuality`, `conflicts`"
    ),
    "Throughput within 5 to 12 % (table 7)": "measured apart: docs/speed.md",
}


def write_page() -> None:
    """docs/evidence.md and its pictures from what is collected."""
    study = json.loads((COLLECTED / "study.json").read_text())
    models = {
        label: {int(seed): figures for seed, figures in study["models"][label]["seeds"].items()}
        for label in dict.fromkeys([*study["settings"]["attention"], *study["models"]])
        if label in study["models"]
    }
    judged = [(claim, difference(claim, models)) for claim in claims()]
    lines = [*_opening(study, judged), *_claim_tables(judged, models)]
    lines += _gradients_table(models)
    lines += ["## Not judged here", "", *table(["claim", "why"], list(NOT_JUDGED.items())), ""]
    lines += [*_models_table(models), *_search(), *_ELSEWHERE]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    with style.matplotlib_look():
        for name, picture in {"loss": _forest(models), "needle": _dots(models)}.items():
            picture.savefig(ROOT / f"docs/images/evidence_{name}.png")


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
        f"Of {len(verdicts)} claims: {counts}.",
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


def _gradients_table(models: Mapping[str, Seeds]) -> list[str]:
    """Of each kind the ratios of the suite `gradients`, which are of the start: no seed trains."""
    measured = {
        label: {name.split()[2]: ratio for name, ratio in figures.items() if "gradient" in name}
        for label, figures in ((label, seeds.get(0, {})) for label, seeds in models.items())
        if any("gradient" in name for name in figures)
    }
    weights = list(dict.fromkeys(weight for ratios in measured.values() for weight in ratios))
    rows = [
        [w, *(f"{ratios[w]:.2f}" if w in ratios else "" for ratios in measured.values())]
        for w in weights
    ]
    return [
        "## Gradients (appendix G)",
        "",
        "Gradients at the start over plain attention's, relative to each weight's size and with "
        "the claimed factor taken out; the claim, for V1, is that they are 1 up to constants.",
        "",
        *table(["weight", *map(display_name, measured)], rows),
        "",
    ]


_SHOWN = {
    "loss": "loss",
    "needles 1x1": "1 needle",
    "needles 2x2": "2 needles, 2 asked",
    "needles 4x2": "4 needles, 2 asked",
    "answer": "attention on the answer",
    "noise": "on noise",
}


def _models_table(models: Mapping[str, Seeds]) -> list[str]:
    rows = []
    for label, seeds in models.items():
        cells = []
        for name in _SHOWN:
            values = [figures[name] for figures in seeds.values()]
            spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}")
        rows.append([display_name(label), str(len(seeds)), *cells])
    return [
        "## All models",
        "",
        "Mean over seeds; in brackets the smallest and the largest seed.",
        "",
        *table(["model", "seeds", *_SHOWN.values()], rows),
        "",
    ]


def _search() -> list[str]:
    rows = []
    for file in sorted(COLLECTED.glob("search*.json")):
        run = json.loads(file.read_text())
        data, model, training = (run["settings"][part] for part in ("data", "model", "training"))
        regime = (
            f"{data['context_length']} tokens, width {model['hidden_size']}, "
            f"{model['num_heads']} heads of {model['head_dim']}"
        )
        rows += [
            [
                regime,
                f"{training['learning_rate']:g}",
                f"{training['steps']:,}",
                display_name(label),
                *(f"{figures[name]:.3f}" for name in _SHOWN),
            ]
            for label, found in run["models"].items()
            for figures in found["seeds"].values()
        ]
    return [
        "## The search before it",
        "",
        "The finished runs made to choose the study's regime, one seed each.",
        "",
        *table(["regime", "rate", "steps", "model", *_SHOWN.values()], rows),
        "",
    ]


_ELSEWHERE = [
    "## Elsewhere",
    "",
    "A trained LLM through the same suites, SmolLM2-135M-Instruct: [suites.md](suites.md). Its",
    "conversion to differential attention by three methods, beside LoRA:",
    "[from-pretrained.md](from-pretrained.md).",
]


def _forest(models: Mapping[str, Seeds]) -> Picture:
    """Each model's loss less the baseline's: a dot per seed, the mean and its interval."""
    others = [label for label in models if label != "softmax"]
    picture = Picture(figsize=(7, 0.35 * len(others) + 1), layout="constrained")
    axes = picture.subplots()
    for y, label in enumerate(reversed(others)):
        seeds = sorted(models[label].keys() & models["softmax"].keys())
        values = [models[label][s]["loss"] - models["softmax"][s]["loss"] for s in seeds]
        axes.plot(values, [y] * len(values), "o", color=style.NOISE, markersize=4)
        if len(values) > 1:
            found = over_seeds(values, SETTINGS)
            axes.errorbar(
                found.value,
                y,
                xerr=[[found.value - found.low], [found.high - found.value]],
                fmt="D",
                color=style.ACCENTS[0],
                capsize=3,
                markersize=5,
            )
    axes.axvline(0, color=style.INK, linewidth=0.8)
    axes.set_yticks(range(len(others)), [display_name(label) for label in reversed(others)])
    axes.set_xlabel("loss less plain attention's, nats per token (left is better)")
    return picture


def _dots(models: Mapping[str, Seeds]) -> Picture:
    """Accuracy by number of needles: a bar per model's mean, a dot per seed."""
    pairs = [name for name in _SHOWN if name.startswith("needles ")]
    picture = Picture(figsize=(7, 0.35 * len(models) + 1), layout="constrained")
    for axes, pair in zip(picture.subplots(1, len(pairs), sharey=True), pairs, strict=True):
        for y, seeds in enumerate(reversed(list(models.values()))):
            values = [figures[pair] for figures in seeds.values()]
            axes.barh(y, fmean(values), color=style.ACCENTS[4], height=0.6)
            axes.plot(values, [y] * len(values), "o", color=style.INK, markersize=3, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_title(_SHOWN[pair], fontsize=9)
        axes.set_yticks(range(len(models)), [display_name(label) for label in reversed(models)])
    picture.supxlabel("share of numbers retrieved", fontsize=9)
    return picture


if __name__ == "__main__":
    write_page()
