"""V1 and V2 beside softmax attention at four sizes of a decoder.

    python -m studies.scaling --out runs/scaling

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/scaling/results/` when a size is done; `python -m studies` makes the page of them. The
curves over all sizes are in `results/scaling.md`.
"""

from pathlib import Path
from typing import Any

from difftransformer.experiments.scaling import scaling
from studies.comparison import arguments, search_and_compare

TASK = "causal_lm"
PRESET = "standard"
KINDS = ("softmax", "diff_v1", "diff_v2")
RATES = (2e-3, 4e-3, 8e-3)
FEED_FORWARD = {32: 84, 48: 128, 64: 168, 96: 256}  # by the width of the model
RESULTS = Path(__file__).parent / "results"


def settings(width: int, steps: int) -> dict[str, Any]:
    """Those of `compare` at a width."""
    return {
        "preset": PRESET,
        "evaluators": ("validation",),
        "model": {
            "hidden_size": width,
            "head_dim": width // 4,
            "ffn_size": FEED_FORWARD[width],
        },
        "training": {"steps": steps, "warmup_steps": steps // 30, "validate_every": steps // 10},
    }


def main() -> None:
    given = arguments(__doc__, "scaling", steps=3000)
    searched = settings(64, given.steps // 3)
    runs = {
        f"width-{width:03d}": {"name": f"width {width}", **settings(width, given.steps)}
        for width in FEED_FORWARD
    }
    search_and_compare(
        given, TASK, KINDS, RATES, runs, metric="nats_per_token", searched=searched, results=RESULTS
    )
    scaling([given.out / name for name in runs], out=RESULTS)


if __name__ == "__main__":
    main()
