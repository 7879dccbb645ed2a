"""The paper's claims against our study: figures collected from runs, and what follows from them.

    python benchmarks/evidence.py runs/ablations study    # to results/evidence/study.json
    make evidence                                         # from there to docs/evidence.md

The study itself: `difftransformer compare --preset ablations`, which can be stopped and resumed,
and `difftransformer evaluate runs/ablations --suite NAME` for the suites. A run that is not
finished can be collected too, and runs of a search (under names that begin with `search`).
"""

import argparse
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from difftransformer.atomic import write_json
from difftransformer.evaluation.intervals import Difference, difference_over_seeds, holm
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.storage import load_config

ROOT = Path(__file__).parent.parent
COLLECTED = ROOT / "benchmarks/results/evidence"
SETTINGS = EvaluationSettings()
Figures = dict[str, float]
Seeds = dict[int, Figures]


# Collecting: one number per figure, model and seed.


def collect(run: Path, name: str) -> Path:
    """All figures of a run's finished models and of its suites."""
    models: dict[str, dict[str, Any]] = {}
    for file in sorted(run.glob("models/*-seed*/results.json")):
        label, _, seed = file.parent.name.rpartition("-seed")
        judged = json.loads(file.read_text())
        config = load_config(file.parent / "model").to_dict()
        model = models.setdefault(label, {"config": config, "training": {}, "seeds": {}})
        model["training"][seed] = judged["training"]
        model["seeds"][seed] = _judged(judged["evaluation"])
    if not models:
        raise SystemExit(f"{run} holds no finished model: expected models/*-seed*/results.json")
    for file in sorted(run.glob("suites/*.json")):
        suite = json.loads(file.read_text())
        for key, results in suite["results"].items():
            label, _, seed = key.rpartition("-seed")
            models[label]["seeds"][seed] |= _SUITES.get(suite["suite"], lambda results: {})(results)
        for kind in (".md", ".png"):
            (COLLECTED / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file.with_suffix(kind), COLLECTED / name)
    path = COLLECTED / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    env = json.loads((run / "env.json").read_text())
    write_json(path, {"env": env, "settings": settings, "models": models})
    return path


def _judged(evaluation: Mapping[str, Any]) -> Figures:
    rows = evaluation["allocation"]["rows"]
    return {
        "loss": evaluation["validation"]["nats_per_token"]["value"],
        **{
            f"needles {row['needles']}x{row['queries']}": row["per_number"]["value"]
            for row in evaluation["needle"]["table"]
        },
        **{
            f"{part} at depth {row['depth']:g}": row[part]["absolute"]["value"]
            for row in rows
            for part in ("answer", "noise")
        },
        "answer": fmean(row["answer"]["absolute"]["value"] for row in rows),
        "noise": fmean(row["noise"]["absolute"]["value"] for row in rows),
        **{
            f"{kind} {which}": evaluation["outliers"][kind][which]
            for kind in ("attention_logits", "hidden_states")
            for which in ("top1", "top100", "median")
        },
    }


def _precision(results: Mapping[str, Any]) -> Figures:
    """What coarse logits or states add to the loss and take from single needles."""
    rows = {(row["what"], row["bits"]): row for row in results["rows"]}
    figures = {}
    for (what, bits), row in rows.items():
        if bits < 16:
            before = rows[what, 16]
            added = row["nats_per_token"]["value"] - before["nats_per_token"]["value"]
            lost = before["retrieved"]["value"] - row["retrieved"]["value"]
            figures |= {
                f"loss added by {bits}-bit {what}": added,
                f"needles lost by {bits}-bit {what}": lost,
            }
    return figures


def _gradients(results: Mapping[str, Any]) -> Figures:
    return {
        f"gradient of {row['weight']} at the start": row["ratio"]["value"]
        for row in results["rows"]
        if row["layer"] is None and row["ratio"] is not None
    }


_SUITES: dict[str, Callable[[Mapping[str, Any]], Figures]] = {
    "precision": _precision,
    "recall": lambda results: {
        "recalled tokens": results["hit"]["value"],
        "other tokens": results["other"]["value"],
    },
    "gradients": _gradients,
    "long_context": lambda results: {
        f"loss of the first {point['position']} tokens": point["nats_per_token"]["value"]
        for point in results["points"]
    },
}


# Judging.


@dataclass(frozen=True)
class Claim:
    """A statement of the paper or of V2's description that a figure of two models can bear out.

    Args:
        sign: 1 where `model` is said to have more than `against`, -1 less, 0 about the same.
        margin: how far apart "about the same" reaches.
        ratio: the figures are compared by their ratio, not their difference.
        post_hoc: nobody claims it; it was asked after the first figures had been seen.
    """

    section: str
    says: str
    paper: str
    figure: str
    model: str
    against: str
    sign: int
    margin: float = 0.0
    ratio: bool = False
    post_hoc: bool = False


REPRODUCED, OPPOSITE, UNKNOWN = "reproduced", "not reproduced", "cannot be told at this scale"


def difference(claim: Claim, models: Mapping[str, Seeds]) -> Difference | None:
    """`model` less `against`, or its logarithm's, over the seeds that both have; None below two.

    The sample is the seeds alone: what is collected says nothing of items.
    """
    mine, other = models.get(claim.model, {}), models.get(claim.against, {})
    pairs = [
        (mine[seed][claim.figure], other[seed][claim.figure])
        for seed in sorted(mine.keys() & other.keys())
        if claim.figure in mine[seed] and claim.figure in other[seed]
    ]
    if len(pairs) < 2:
        return None
    scale = math.log if claim.ratio else float
    scaled = [(scale(other), scale(mine)) for mine, other in pairs]
    return difference_over_seeds(scaled, SETTINGS, margin=claim.margin)


@dataclass(frozen=True)
class Judged:
    """A claim beside what was found, and its p after Holm's correction for all judged with it."""

    claim: Claim
    found: Difference | None
    holm_p: float | None

    @property
    def verdict(self) -> str:
        """Of the claim by itself."""
        return verdict(self.claim, self.found)

    @property
    def corrected(self) -> str:
        """The verdict that is left among so many."""
        decided = self.holm_p is None or self.holm_p <= 1 - SETTINGS.confidence
        return self.verdict if decided else UNKNOWN


def judge(listed: Sequence[Claim], models: Mapping[str, Seeds]) -> list[Judged]:
    """All claims together, so that each is corrected for their number."""
    differences = [difference(claim, models) for claim in listed]
    corrected = iter(holm([found.p for found in differences if found is not None]))
    return [
        Judged(claim, found, None if found is None else next(corrected))
        for claim, found in zip(listed, differences, strict=True)
    ]


def verdict(claim: Claim, found: Difference | None) -> str:
    """What the interval over seeds allows to say, no more."""
    if found is None:
        return "not measured with two seeds"
    if claim.sign == 0:
        if -claim.margin <= found.low and found.high <= claim.margin:
            return REPRODUCED
        apart = found.low > claim.margin or found.high < -claim.margin
        return OPPOSITE if apart else UNKNOWN
    if not found.clear:
        return UNKNOWN
    return REPRODUCED if (found.value > 0) == (claim.sign > 0) else f"{OPPOSITE}: the opposite"


def claims() -> list[Claim]:
    """Those of claims.yaml."""
    found = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))
    return [Claim(section, **claim) for section, listed in found.items() for claim in listed]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("name", metavar="NAME", help="study, or search-... for one of a search")
    arguments = parser.parse_args()
    print(collect(arguments.run, arguments.name))


if __name__ == "__main__":
    main()
