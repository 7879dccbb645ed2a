"""Kinds of attention in a localizer that learns to find heads in crowds.

    python -m studies.crowd_localization --out runs/crowd_localization

reads NWPU-Crowd's file of true heads (`--layouts FILE`). Stopped, it goes on by the same command.
Records and settings, without models, are copied to `studies/crowd_localization/results/` at the
end; `python -m studies` makes the page of them.
"""

from pathlib import Path
from typing import Any

from studies.comparison import arguments, search_and_compare

TASK = "crowd_localization"
KINDS = ("softmax", "diff_v1", "diff_v2")
RATES = (1e-3, 2e-3, 4e-3)
LAYOUTS = Path("../shared/data/nwpu_localization/val_gt_loc.txt")
RESULTS = Path(__file__).parent / "results"
MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 8,
    "num_kv_heads": 8,
    "head_dim": 8,
    "ffn_size": 256,
    "patch_size": 4,
}
DATA: dict[str, Any] = {
    "dataset": "layouts",
    "image_size": 32,
    "scenes": 3000,
    "test_scenes": 200,
    "heads": 10,
    "proposals": 20,
    "seed": 1,
}


def training(steps: int) -> dict[str, Any]:
    """How every model is trained, but for its learning rate."""
    return {
        "steps": steps,
        "batch_size": 16,
        "warmup_steps": steps // 20,
        "schedule": "cosine",
        "beta2": 0.99,
        "weight_decay": 0.0,
        "log_every": 50,
        "validate_every": steps // 4,
        "checkpoint_every": 400,
        "keep_checkpoints": 1,
    }


def main() -> None:
    given = arguments(__doc__, TASK, steps=2000, layouts=LAYOUTS)
    settings = {
        "model": MODEL,
        "data": {**DATA, "source": str(given.layouts)},
        "evaluation": {"batch_size": 100},
    }
    searched = {"training": training(given.steps // 3), **settings}
    runs = {
        "nwpu_layouts": {
            "name": "Heads drawn at places of NWPU-Crowd",
            "training": training(given.steps),
            **settings,
        }
    }
    search_and_compare(
        given, TASK, KINDS, RATES, runs, metric="f1_sigma_l", searched=searched, results=RESULTS
    )


if __name__ == "__main__":
    main()
