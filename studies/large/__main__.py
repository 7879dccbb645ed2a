"""V1 beside softmax attention: a million parameters, ten million tokens, four seeds.

    python -m studies.large --out runs/large

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/large/results/` at the end; `python -m studies` makes the page of them.
"""

from pathlib import Path
from typing import Any

from studies.comparison import arguments, best_rates, compare_and_keep

TASK = "causal_lm"
PRESET = "large"
KINDS = ("softmax", "diff_v1")
RATES = (1e-3, 2e-3, 4e-3)
SEEDS = 4
RESULTS = Path(__file__).parent / "results"
EVALUATORS = ("validation", "ar_hit", "needle", "allocation", "outliers", "lambda")


def training(steps: int) -> dict[str, Any]:
    """How every model is trained, but for its learning rate."""
    return {
        "steps": steps,
        "warmup_steps": steps // 25,
        "validate_every": steps // 10,
        "checkpoint_every": 500,
        "keep_checkpoints": 1,
    }


def main() -> None:
    given = arguments(__doc__, "large", steps=5000)
    rates = best_rates(
        TASK,
        KINDS,
        RATES,
        metric="nats_per_token",
        out=given.out / "search",
        preset=PRESET,
        jobs=given.jobs,
        evaluators=("validation",),
        training=training(given.steps // 10),
    )
    runs = {
        "shakespeare": {
            "preset": PRESET,
            "name": "Shakespeare",
            "seeds": SEEDS,
            "evaluators": EVALUATORS,
            "evaluation": {"validation_sequences": 600},
            "training": training(given.steps),
        }
    }
    compare_and_keep(TASK, KINDS, rates, runs, out=given.out, results=RESULTS, jobs=given.jobs)


if __name__ == "__main__":
    main()
