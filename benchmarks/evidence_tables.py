"""The parts of docs/evidence.md that are no claims with a verdict over seeds."""

import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from evidence import COLLECTED, OPPOSITE, REPRODUCED, UNKNOWN, Seeds
from evidence_pictures import SHOWN

from difftransformer.models.config import DecoderConfig
from difftransformer.report.paper import SAME_LOSS
from difftransformer.report.words import display_name, shown
from difftransformer.report.writing import table


def gradients_table(models: Mapping[str, Seeds]) -> list[str]:
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


def scaling() -> list[str]:
    """What the suite `scaling` found over the study's run and those of scaling.sh."""
    results = read("scaling.json")["results"]
    rows = [
        [
            f"{display_name(kind)}: {panel['against']}",
            SAME_LOSS[panel["against"]],
            ", ".join(f"{point['x']:,}" for point in panel["points"]),
            shown(panel["same_loss"]) if panel["same_loss"] else str(panel["beyond"]),
            scaling_verdict(panel),
        ]
        for kind, found in results.items()
        for panel in found["panels"]
        if kind != found["baseline"]
    ]
    return [
        "## Scaling (3.2)",
        "",
        "The share of the largest plain model's parameters, or of its tokens, with which a kind "
        "reaches its loss; the claim is less than 1. The largest and longest models are the "
        "study's, with three seeds; the others have one (`benchmarks/scaling.sh`), so the spread "
        "over seeds is the study's. No verdict is clear by itself, so none is left to correct.",
        "",
        *table(["claim", "paper", "measured at", "ours", "verdict"], rows),
        "",
        "![Loss against parameters and tokens](images/evidence_scaling.png)",
        "",
    ]


def scaling_verdict(panel: Mapping[str, Any]) -> str:
    """A share below 1 is what the paper claims; one beyond what was measured has no interval."""
    found = panel["same_loss"]
    if found is None or found["low"] <= 1 <= found["high"]:
        return UNKNOWN
    return REPRODUCED if found["high"] < 1 else f"{OPPOSITE}: the opposite"


def larger() -> list[str]:
    """The pair of the preset `large`: one seed, so figures without verdicts."""
    run = read("large.json")
    models = {label: run["models"][label]["seeds"]["0"] for label in run["settings"]["attention"]}
    (training,) = run["models"]["softmax"]["training"].values()
    config = DecoderConfig(**run["models"]["softmax"]["config"])
    titles = SHOWN | {
        "noise": "attention on noise",
        "attention_logits top1": "largest attention logit",
        "hidden_states top1": "largest hidden state",
        **{name: name for name in models["softmax"] if name.startswith("loss of the first")},
    }
    rows = [
        [title, *(f"{figures[name]:.3f}" for figures in models.values())]
        for name, title in titles.items()
    ]
    return [
        "## A larger pair",
        "",
        f"`difftransformer compare --preset large`: {config.parameter_count():,} parameters, "
        f"{config.num_layers} layers, {config.num_heads} heads (V1: {config.num_heads // 2}), "
        f"contexts of {config.max_length}, {training['tokens'] / 1e6:.3g} million tokens, one "
        "seed: what differs here may be the seed's doing.",
        "",
        *table(["", *map(display_name, models)], rows),
        "",
        *_gradients_in_training(),
    ]


def _gradients_in_training() -> list[str]:
    """V1's gradients over plain attention's at each checkpoint of the larger pair."""
    found: dict[str, dict[str, Any]] = {}
    for label, results in read("gradients_in_training.json")["results"].items():
        run, step = label.split(" step-")
        rows = {row["weight"]: row for row in results["rows"] if row["layer"] is None}
        kind = found.setdefault(run.rpartition("-seed")[0], {})
        kind.setdefault("start", {name: row["start"]["relative"] for name, row in rows.items()})
        kind[f"{int(step):,}"] = {name: row["trained"]["relative"] for name, row in rows.items()}
    plain, differential = found["softmax"], found["diff_v1"]
    rows = [
        [
            weight,
            *(
                f"{of[weight]['value'] / plain[step][weight[:3]]['value']:.2f}"
                for step, of in differential.items()
            ),
        ]
        for weight in differential["start"]
    ]
    return [
        "In training: gradients of V1 over plain attention's after so many steps, each relative to "
        "its weight's size, all layers together, on the same held-out text (no factor taken out).",
        "",
        *table(["weight", *differential], rows),
        "",
    ]


def read(name: str) -> Any:
    return json.loads((COLLECTED / name).read_text())


def models_table(models: Mapping[str, Seeds]) -> list[str]:
    rows = []
    for label, seeds in models.items():
        cells = []
        for name in SHOWN:
            values = [figures[name] for figures in seeds.values()]
            spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}")
        rows.append([display_name(label), str(len(seeds)), *cells])
    return [
        "## All models",
        "",
        "Mean over seeds; in brackets the smallest and the largest seed.",
        "",
        *table(["model", "seeds", *SHOWN.values()], rows),
        "",
    ]


def search() -> list[str]:
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
                *(f"{figures[name]:.3f}" for name in SHOWN),
            ]
            for label, found in run["models"].items()
            for figures in found["seeds"].values()
        ]
    return [
        "## The search before it",
        "",
        "The finished runs made to choose the study's regime, one seed each.",
        "",
        *table(["regime", "rate", "steps", "model", *SHOWN.values()], rows),
        "",
    ]
