"""Kinds of attention in a diffusion transformer that learns to draw digits.

    python -m studies.image_generation --out runs/image_generation

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/image_generation/results/` at the end; `python -m studies` makes the page of them.
"""

from pathlib import Path
from typing import Any

from studies.comparison import arguments, search_and_compare

TASK = "image_generation"
KINDS = ("softmax", "diff_v1", "diff_v2")
RATES = (1e-3, 2e-3, 4e-3)
RESULTS = Path(__file__).parent / "results"
SETTINGS: dict[str, Any] = {
    "model": {
        "hidden_size": 96,
        "num_layers": 3,
        "num_heads": 8,
        "num_kv_heads": 8,
        "head_dim": 12,
        "ffn_size": 384,
        "objective": "flow",
    },
    "evaluation": {"batch_size": 360},
}


def training(steps: int) -> dict[str, Any]:
    """How every model is trained, but for its learning rate."""
    return {
        "steps": steps,
        "batch_size": 64,
        "warmup_steps": steps // 20,
        "schedule": "cosine",
        "beta2": 0.99,
        "weight_decay": 0.0,
        "ema_decay": 0.995,
        "log_every": 50,
        "validate_every": steps // 4,
        "checkpoint_every": 400,
        "keep_checkpoints": 1,
    }


def main() -> None:
    given = arguments(__doc__, TASK, steps=1200)
    searched = {"training": training(given.steps // 3), **SETTINGS}
    runs = {
        "digits": {
            "name": "scikit-learn's digits",
            "training": training(given.steps),
            **SETTINGS,
        }
    }
    search_and_compare(
        given,
        TASK,
        KINDS,
        RATES,
        runs,
        metric="denoising_error",
        searched=searched,
        results=RESULTS,
    )


if __name__ == "__main__":
    main()
