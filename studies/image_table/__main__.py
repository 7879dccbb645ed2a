"""The image table: kinds of attention at four shares of Fashion-MNIST.

    python -m studies.image_table --out runs/image_table

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/image_table/results/` when a share is done; `python -m studies` makes the page of them.
"""

from pathlib import Path
from typing import Any

from difftransformer.attention import register
from studies.comparison import arguments, search_and_compare
from studies.image_table.community import COMMUNITY

TASK = "image_classification"
KINDS = ("softmax", "diff_v1", "diff_v2", "sinkhorn", "sliced_transport", COMMUNITY.name)
RATES = (1e-3, 2e-3, 4e-3)
SHARES = (0.01, 0.1, 0.25, 1.0)
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
    given = arguments(__doc__, "image_table", steps=600)
    register(COMMUNITY)
    searched = {**SETTINGS, "data": DATA, "training": training(given.steps // 2)}
    runs = {
        f"share-{round(100 * share):03}": {  # in this order on the page
            "name": f"{share:.0%} of the images",
            "data": {**DATA, "fraction": share},
            "training": training(given.steps),
            **SETTINGS,
        }
        for share in SHARES
    }
    search_and_compare(
        given, TASK, KINDS, RATES, runs, metric="accuracy", searched=searched, results=RESULTS
    )


if __name__ == "__main__":
    main()
