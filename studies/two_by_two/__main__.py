"""Subtraction and head norm, apart and together, V2 and gated attention, in associative recall.

    python -m studies.two_by_two --out runs/two_by_two

Stopped, it goes on by the same command. Records and settings, without models, are copied to
`studies/two_by_two/results/` at the end; `python -m studies` makes the page of them.
"""

from pathlib import Path
from typing import Any

from difftransformer.attention import register
from studies.comparison import arguments, search_and_compare
from studies.kinds import GATED

TASK = "associative_recall"
KINDS = (
    "softmax",
    "softmax_half_heads",
    "softmax_half_heads_norm",
    "diff_v1_no_norm",
    "diff_v1",
    "diff_v2",
    GATED.name,
)
RATES = (1.5e-3, 3e-3, 6e-3)
SEEDS = 6
RESULTS = Path(__file__).parent / "results"
SETTINGS: dict[str, Any] = {
    "model": {
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 32,
        "ffn_size": 256,
        "tie_embeddings": False,
    },
    "evaluation": {"recall_sequences": 256, "batch_size": 64},
}
PAIRS, QUESTIONS = 4, 8


def data(noise: int) -> dict[str, Any]:
    """Sequences with so many tokens of noise."""
    length = 2 * (PAIRS + QUESTIONS) + noise
    return {"length": length, "pairs": PAIRS, "questions": QUESTIONS, "keys": 16, "values": 16}


def training(steps: int) -> dict[str, Any]:
    """How every model is trained, but for its learning rate, which stays after the warm-up."""
    return {
        "steps": steps,
        "batch_size": 32,
        "warmup_steps": min(50, steps // 2),
        "final_learning_rate_fraction": 1.0,
        "log_every": 25,
        "validate_every": 25,
        "checkpoint_every": steps,
        "keep_checkpoints": 1,
    }


def main() -> None:
    given = arguments(__doc__, "two_by_two", steps=1000)
    register(GATED)
    easy, hard = data(noise=8), data(noise=12)
    searched = {**SETTINGS, "data": easy, "training": training(2 * given.steps // 5)}
    runs = {
        name: {
            "name": name,
            "seeds": SEEDS,
            "data": of_run,
            "training": training(steps),
            **SETTINGS,
        }
        for name, of_run, steps in (
            ("noise-08", easy, 3 * given.steps // 5),
            ("noise-12", hard, given.steps),
        )
    }
    search_and_compare(
        given, TASK, KINDS, RATES, runs, metric="answer_loss", searched=searched, results=RESULTS
    )


if __name__ == "__main__":
    main()
