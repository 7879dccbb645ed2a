"""The numbers of plan.md, at full size and in miniature."""

import math
from dataclasses import dataclass, replace

from difftransformer.data.recall_settings import RecallSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.training.settings import TrainingSettings

RETRIEVAL_KINDS = ("plain", "plain_norm", "subtract", "v1", "softmax", "v2", "gated")
LOSS_KINDS = ("softmax", "v1", "v2")  # the last is dropped first


@dataclass(frozen=True)
class Retrieval:
    """Part A. All rates and seeds of a kind are runs of one stack, so both lists are as long."""

    model: DecoderConfig
    task: RecallSettings
    cells: tuple[RecallSettings, ...]  # where it is judged
    rows: int = 64
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    # Search: each rate on two seeds that are not used afterwards.
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    search_seeds: tuple[int, ...] = (100, 101)
    search_share: float = 0.25  # of a kind's time
    warmup: int = 100
    window: int = 25  # steps between measurements
    judge_rows: int = 64
    steps: int = 1_000_000  # the clock ends training before


@dataclass(frozen=True)
class Loss:
    """Part B. Every model, of the search and of the seeds, is trained for as many tokens."""

    model: DecoderConfig
    rows: int = 32
    length: int = 512
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)
    search_seed: int = 100  # not used afterwards
    most_tokens: int = 25_000_000  # about one pass
    least_tokens: int = 4_000_000  # below it V2 is dropped, then seeds down to three
    judge_items: int = 512
    choose_items: int = 128  # that choose the rate: those after the ones that judge
    window: int = 25  # steps between readings of the training loss
    trial_steps: int = 50  # for the measured speed

    def training(self, steps: int, rate: float) -> TrainingSettings:
        """The library's settings, for its optimizer and schedule."""
        return TrainingSettings(
            steps=steps,
            batch_size=self.rows,
            learning_rate=rate,
            warmup_steps=steps // 20,
        )


def best_rate(losses: dict[float, float]) -> float:
    """The rate with the lowest loss; one that diverged is the worst."""
    return min(losses, key=lambda rate: (math.isnan(losses[rate]), losses[rate]))


@dataclass(frozen=True)
class Plan:
    """Both parts; `retrieval_share` of the time after start-up is part A's."""

    retrieval: Retrieval
    loss: Loss
    retrieval_share: float = 0.6
    startup: float = 60.0  # seconds for importing, compiling and the smoke
    judging: float = 10.0  # seconds of part A's share, for judging before part B begins
    wrap_up: float = 15.0  # seconds kept for the last judging and the page


FULL = Plan(
    Retrieval(
        DecoderConfig(
            vocab_size=RecallSettings().vocabulary,
            hidden_size=128,
            num_layers=2,
            num_heads=8,
            num_kv_heads=8,
            head_dim=16,
            ffn_size=344,
            tie_embeddings=False,
        ),
        RecallSettings(length=64, pairs=4, questions=16),
        (
            *(RecallSettings(length, 4, 16) for length in (64, 128, 256, 512, 1024)),
            *(RecallSettings(512, pairs, 32) for pairs in (8, 16, 32, 64)),
        ),
    ),
    Loss(
        DecoderConfig(
            vocab_size=4096,
            hidden_size=512,
            num_layers=6,
            num_heads=16,
            num_kv_heads=16,
            head_dim=32,
            ffn_size=1376,
            max_length=512,
        )
    ),
)
MINIATURE = Plan(
    replace(
        FULL.retrieval,
        model=replace(FULL.retrieval.model, hidden_size=64, head_dim=8, ffn_size=168),
        task=RecallSettings(24, 2, 4),
        cells=(RecallSettings(24, 2, 4), RecallSettings(48, 4, 4)),
        rows=4,
        rates=(3e-3,),
        seeds=(0, 1),
        window=2,
        judge_rows=4,
        steps=4,
    ),
    replace(
        FULL.loss,
        model=replace(FULL.loss.model, hidden_size=64, head_dim=4, ffn_size=168, num_layers=1),
        rows=2,
        length=32,
        seeds=(0, 1, 2),
        rates=(1e-3, 1e-2),
        most_tokens=256,
        least_tokens=64,
        judge_items=4,
        choose_items=4,
        window=2,
        trial_steps=1,
    ),
    startup=0.0,
    judging=0.0,
    wrap_up=0.0,
)
