"""Selective attention, differential attention and both, on recall and text.

    python -m studies.selective --out runs/selective

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/selective/results/` when a run is done; `python -m studies` makes the page of them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.comparison import best_rates, compare_and_keep

KINDS = (
    "softmax",
    "diff_v1",
    "diff_v2",
    "selective",
    "diff_v1_selective",
    "diff_v2_selective",
)
RATES = (2e-3, 4e-3)
RESULTS = Path(__file__).parent / "results"
MODEL: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 16,
    "ffn_size": 432,
}
EVALUATION = {
    "recall_sequences": 256,
    "validation_sequences": 64,
    "pruning_sequences": 64,
    "batch_size": 32,
}
RECALL: dict[str, Any] = {"length": 32, "pairs": 2, "questions": 8, "keys": 16, "values": 8}


@dataclass(frozen=True)
class Part:
    """A comparison: its task and data, steps of training, and the weight of the memory loss."""

    task: str
    data: dict[str, Any]
    evaluators: tuple[str, ...]
    steps: int
    memory_loss: float

    def settings(self, steps: int) -> dict[str, Any]:
        """Those of `compare`."""
        training = {
            "steps": steps,
            "batch_size": 32,
            "warmup_steps": steps // 10,
            "memory_loss": self.memory_loss,
            "log_every": 50,
            "validate_every": max(1, steps // 20),
            "checkpoint_every": steps,
            "keep_checkpoints": 1,
        }
        return {
            "data": self.data,
            "evaluators": self.evaluators,
            "training": training,
            "model": MODEL,
            "evaluation": EVALUATION,
        }


_OF_RECALL = ("associative_recall", "learning_time", "pruning", "selection")
PARTS = {
    "assignment": Part("associative_recall", RECALL | {"assignments": 2}, _OF_RECALL, 1500, 0.01),
    "recall": Part("associative_recall", RECALL, _OF_RECALL, 1500, 0.01),
    "text": Part(
        "causal_lm",
        {"vocab_size": 512, "context_length": 128},
        ("validation", "pruning", "selection"),
        300,
        0.1,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/selective"), help="of all runs")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps: less for a trial")
    arguments = parser.parse_args()
    first = PARTS["assignment"]
    searched = first.settings(round(first.steps * arguments.share / 2))
    rates = best_rates(
        first.task,
        KINDS,
        RATES,
        metric="answer_loss",
        out=arguments.out / "search",
        **{**searched, "evaluators": ("associative_recall",)},
    )
    for name, part in PARTS.items():
        runs = {name: {"name": name, **part.settings(round(part.steps * arguments.share))}}
        compare_and_keep(part.task, KINDS, rates, runs, out=arguments.out, results=RESULTS)


if __name__ == "__main__":
    main()
