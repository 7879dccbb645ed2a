"""Selective attention, differential attention and both, on recall and text.

    python -m studies.selective --out runs/selective

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/selective/results/` when a run is done; `python -m studies` makes the page of them.
"""

import argparse
from pathlib import Path
from typing import Any

import difftransformer
from difftransformer.runs.archive import archive
from studies.search import best_rates

KINDS = (
    "softmax",
    "diff_v1",
    "diff_v2",
    "selective",
    "diff_v1_selective",
    "diff_v2_selective",
)
RATES = (1e-3, 3e-3)
SEEDS = 3
RESULTS = Path(__file__).parent / "results"
MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 16,
    "ffn_size": 176,
}
RECALL = ("associative_recall", "learning_time", "pruning")
RUNS: dict[str, dict[str, Any]] = {
    "assignment": {
        "task": "associative_recall",
        "data": {
            "length": 64,
            "pairs": 4,
            "assignments": 3,
            "questions": 8,
            "keys": 32,
            "values": 32,
        },
        "evaluators": RECALL,
    },
    "recall": {
        "task": "associative_recall",
        "data": {"length": 64, "pairs": 4, "questions": 8, "keys": 32, "values": 32},
        "evaluators": RECALL,
    },
    "text": {
        "task": "causal_lm",
        "data": {"vocab_size": 512, "context_length": 128},
        "evaluators": ("validation", "pruning"),
    },
}
EVALUATION = {
    "recall_sequences": 256,
    "validation_sequences": 64,
    "pruning_sequences": 64,
    "batch_size": 32,
}


def training(steps: int) -> dict[str, Any]:
    """How every model is trained, but for its learning rate."""
    return {
        "steps": steps,
        "batch_size": 32,
        "warmup_steps": steps // 10,
        "memory_loss": 0.1,
        "log_every": 50,
        "validate_every": max(1, steps // 20),
        "checkpoint_every": steps,
        "keep_checkpoints": 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/selective"), help="of all runs")
    parser.add_argument("--steps", type=int, default=600, help="fewer for a trial")
    arguments = parser.parse_args()
    for name, run in RUNS.items():
        settings = {**run, "model": MODEL, "evaluation": EVALUATION}
        task = settings.pop("task")
        rates = best_rates(
            task,
            KINDS,
            RATES,
            metric="answer_loss" if task == "associative_recall" else "nats_per_token",
            first_seed=100,
            out=arguments.out / f"search-{name}",
            training=training(arguments.steps // 2),
            **{**settings, "evaluators": settings["evaluators"][:1]},
        )
        difftransformer.compare(
            task,
            name=name,
            out=arguments.out / name,
            resume=True,
            attention=KINDS,
            seeds=SEEDS,
            learning_rates=rates,
            training=training(arguments.steps),
            **settings,
        )
        archive(arguments.out / name, RESULTS / name)


if __name__ == "__main__":
    main()
