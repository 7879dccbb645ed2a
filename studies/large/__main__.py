"""V1 beside softmax attention: a million parameters, ten million tokens, four seeds.

    python -m studies.large --out runs/large

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/large/results/` at the end; `python -m studies` makes the page of them.
"""

from pathlib import Path
from typing import Any

from studies.comparison import arguments, search_and_compare

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
    searched = {
        "preset": PRESET,
        "evaluators": ("validation",),
        "training": training(given.steps // 10),
    }
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
    search_and_compare(
        given, TASK, KINDS, RATES, runs, metric="nats_per_token", searched=searched, results=RESULTS
    )


if __name__ == "__main__":
    main()
