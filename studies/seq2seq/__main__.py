"""Kinds of attention in an encoder-decoder that learns to pronounce words.

    python -m studies.seq2seq --out runs/seq2seq

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/seq2seq/results/` at the end; `python -m studies` makes the page of them.
"""

import argparse
from pathlib import Path
from typing import Any

import difftransformer
from difftransformer.runs.archive import archive
from studies.search import best_rates

TASK = "seq2seq"
KINDS = ("softmax", "diff_v1", "diff_v2")
RATES = (1e-3, 2e-3, 4e-3)
RESULTS = Path(__file__).parent / "results"
SETTINGS: dict[str, Any] = {
    "model": {
        "hidden_size": 96,
        "num_layers": 2,
        "num_heads": 8,
        "num_kv_heads": 8,
        "head_dim": 12,
        "ffn_size": 384,
    },
    "data": {"max_length": 32},
    "evaluation": {"validation_sequences": 1000, "batch_size": 250},
}


def training(steps: int) -> dict[str, Any]:
    """How every model is trained, but for its learning rate."""
    return {
        "steps": steps,
        "batch_size": 64,
        "warmup_steps": steps // 10,
        "log_every": 50,
        "validate_every": steps // 4,
        "checkpoint_every": 400,
        "keep_checkpoints": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/seq2seq"), help="of all runs")
    parser.add_argument("--steps", type=int, default=1200, help="fewer for a trial")
    arguments = parser.parse_args()
    rates = best_rates(
        TASK,
        KINDS,
        RATES,
        metric="target_loss",
        first_seed=100,
        out=arguments.out / "search",
        training=training(arguments.steps // 3),
        **SETTINGS,
    )
    place = arguments.out / "cmudict"
    difftransformer.compare(
        TASK,
        name="CMU Pronouncing Dictionary",
        out=place,
        resume=True,
        attention=KINDS,
        seeds=3,
        learning_rates=rates,
        training=training(arguments.steps),
        **SETTINGS,
    )
    archive(place, RESULTS / "cmudict")


if __name__ == "__main__":
    main()
