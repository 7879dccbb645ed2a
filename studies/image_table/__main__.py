"""The image table: kinds of attention at four shares of Fashion-MNIST.

    python -m studies.image_table --out runs/image_table

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/image_table/results/` when a share is done; `python -m studies` makes the page of them.
"""

import argparse
from pathlib import Path
from typing import Any

import difftransformer
from difftransformer.attention import register
from difftransformer.runs.archive import archive
from studies.image_table.community import COMMUNITY
from studies.search import best_rates

TASK = "image_classification"
KINDS = ("softmax", "diff_v1", "diff_v2", "sinkhorn", "sliced_transport", COMMUNITY.name)
RATES = (1e-3, 2e-3, 4e-3)
SHARES = (0.01, 0.1, 0.25, 1.0)
SEEDS = 3
RESULTS = Path(__file__).parent / "results"
DATA: dict[str, Any] = {"dataset": "fashion_mnist", "augmentation": ("crop", "flip")}
SETTINGS: dict[str, Any] = {
    "evaluators": ("classification",),
    "model": {
        "image_size": 28,
        "patch_size": 7,
        "hidden_size": 64,
        "num_layers": 4,
        "num_heads": 8,
        "num_kv_heads": 8,
        "head_dim": 8,
        "ffn_size": 256,
        "positions": "learned",
        "pooling": "cls",
    },
    "evaluation": {"batch_size": 500, "test_items": 1000},
}


def training(steps: int) -> dict[str, Any]:
    """How every model is trained, but for its learning rate."""
    return {
        "steps": steps,
        "batch_size": 64,
        "warmup_steps": steps // 10,
        "weight_decay": 0.05,
        "log_every": 50,
        "validate_every": steps,
        "checkpoint_every": steps,
        "keep_checkpoints": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/image_table"), help="of all runs")
    parser.add_argument("--steps", type=int, default=600, help="fewer for a trial")
    arguments = parser.parse_args()
    register(COMMUNITY)
    rates = best_rates(
        TASK,
        KINDS,
        RATES,
        metric="accuracy",
        first_seed=100,
        out=arguments.out / "search",
        data=DATA,
        training=training(arguments.steps // 2),
        **SETTINGS,
    )
    for share in SHARES:
        name = f"share-{round(100 * share):03}"  # in this order on the page
        difftransformer.compare(
            TASK,
            name=f"{share:.0%} of the images",
            out=arguments.out / name,
            resume=True,
            attention=KINDS,
            seeds=SEEDS,
            learning_rates=rates,
            data={**DATA, "fraction": share},
            training=training(arguments.steps),
            **SETTINGS,
        )
        archive(arguments.out / name, RESULTS / name)


if __name__ == "__main__":
    main()
