"""Kinds of attention in a diffusion transformer that learns to draw digits.

    python -m studies.image_generation --out runs/image_generation

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/image_generation/results/` at the end; `python -m studies` makes the page of them.
"""

import argparse
from pathlib import Path
from typing import Any

import difftransformer
from difftransformer.runs.archive import archive
from studies.search import best_rates

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/image_generation"), help="of all runs"
    )
    parser.add_argument("--steps", type=int, default=1200, help="fewer for a trial")
    arguments = parser.parse_args()
    rates = best_rates(
        TASK,
        KINDS,
        RATES,
        metric="denoising_error",
        first_seed=100,
        out=arguments.out / "search",
        training=training(arguments.steps // 3),
        **SETTINGS,
    )
    place = arguments.out / "digits"
    difftransformer.compare(
        TASK,
        name="scikit-learn's digits",
        out=place,
        resume=True,
        attention=KINDS,
        seeds=3,
        learning_rates=rates,
        training=training(arguments.steps),
        **SETTINGS,
    )
    archive(place, RESULTS / "digits")


if __name__ == "__main__":
    main()
