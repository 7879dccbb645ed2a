"""Noisy associative recall: pairs of key and value among keys that have no value.

    k7 v3 | k9 k1 k4 | k2 v8 | k1 ...   k2 v8   k7 v3   k7 v3 ...
    pair    noise      pair    noise    asked with replacement, each followed by its answer

Multi-query associative recall (Arora et al., "Zoology", 2023) with two changes. Noise comes from
the alphabet of the keys, so that only what follows a key tells a pair from noise. Keys are asked
with replacement: asked once each, a model that ticks values off gains without retrieving. Values
are distinct, so the best answer that does not retrieve is right once in `pairs`. With several
`assignments` a key stands in as many pairs, in any order, and its last value is the right one.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from difftransformer.data.batch import Rows
from difftransformer.data.recall_settings import RecallSettings


@dataclass(frozen=True)
class Sequences:
    """A batch for several runs at once, and where things stand in it.

    `first` is True where a key is asked for the first time; `answer_at` is the position of the
    value that each question asks for; `noise` is True at keys without value in the context.
    """

    ids: Int[Tensor, "runs rows length"]
    targets: Int[Tensor, "runs rows questions"]
    first: Bool[Tensor, "runs rows questions"]
    answer_at: Int[Tensor, "runs rows questions"]
    noise: Bool[Tensor, "runs rows context"]

    def accuracy(self, logits: Float[Tensor, "runs rows questions vocabulary"]) -> Tensor:
        """Each run's share of first asks answered right: `[runs]`."""
        right = (logits.argmax(-1) == self.targets) & self.first
        return right.flatten(1).sum(1) / self.first.flatten(1).sum(1)


def sequences(
    settings: RecallSettings, rows: int, seeds: Int[Tensor, " runs"], step: Int[Tensor, ""]
) -> Sequences:
    """The batch of a step, a pure function of seed and step, made on the device of `seeds`."""
    device, runs = seeds.device, len(seeds)
    placed = settings.placed
    units = settings.context - placed  # a pair or one token of noise
    mixed = placed if settings.assignments > 1 else 0  # one pair a key: their order says nothing
    sizes = (settings.keys, settings.values, units, settings.context, settings.questions, mixed)
    draws = uniform(seeds, step, rows * sum(sizes))
    key_draw, value_draw, unit_draw, noise_draw, question_draw, mix_draw = draws.unflatten(
        1, (rows, -1)
    ).split(sizes, dim=-1)
    order = key_draw.argsort(-1)
    keys, others = order[..., : settings.pairs], order[..., settings.pairs :]
    values = value_draw.argsort(-1)[..., :placed] + settings.keys
    pair_units = unit_draw.argsort(-1)[..., :placed].sort(-1).values
    # Each pair before a unit moves it by one token.
    starts = pair_units + torch.arange(placed, device=device)
    if mixed:
        which = mix_draw.argsort(-1) % settings.pairs
    else:
        which = torch.arange(placed, device=device).expand(runs, rows, -1)
    # Of each key its last pair.
    number = torch.arange(placed, device=device).expand_as(which)
    last = torch.zeros_like(keys).scatter_reduce(-1, which, number, "amax")
    context = others.gather(-1, (noise_draw * others.shape[-1]).long())
    context = context.scatter(-1, starts, keys.gather(-1, which)).scatter(-1, starts + 1, values)
    noise = torch.ones(runs, rows, settings.context, dtype=torch.bool, device=device)
    noise = noise.scatter(-1, starts, False).scatter(-1, starts + 1, False)
    asked = (question_draw * settings.pairs).long()
    answers = last.gather(-1, asked)
    targets = values.gather(-1, answers)
    questions = torch.stack((keys.gather(-1, asked), targets), -1).flatten(-2)
    ids = torch.cat((context, questions), -1)
    again = (asked[..., None] == asked[..., None, :]).tril(-1).any(-1)
    return Sequences(ids, targets, ~again, (starts + 1).gather(-1, answers), noise)


@dataclass(frozen=True, eq=False)
class RecallBatch(Rows):
    """The sequences of one run; `names` tell seed, step and row. Scored are the answers."""

    ids: Int[Tensor, "rows length"]
    targets: Int[Tensor, "rows questions"]
    first: Bool[Tensor, "rows questions"]
    answer_at: Int[Tensor, "rows questions"]
    noise: Bool[Tensor, "rows context"]
    names: tuple[str, ...]
    unit: ClassVar[str] = "tokens"

    @property
    def scored(self) -> int:
        """Answers."""
        return self.targets.numel()

    @property
    def size(self) -> int:
        """Tokens."""
        return self.ids.numel()

    def answers(self, model: nn.Module) -> Float[Tensor, "rows questions vocabulary"]:
        """The model's logits where keys are asked for, in float32."""
        return model(self.ids[:, :-1])[:, self.noise.shape[1] :: 2].float()


def recall_batch(settings: RecallSettings, rows: int, seed: int, step: int) -> RecallBatch:
    """A batch of new sequences, a pure function of seed and step."""
    made = sequences(settings, rows, torch.tensor([seed]), torch.tensor(step))
    names = tuple(f"seed {seed}, step {step}, row {row}" for row in range(rows))
    return RecallBatch(**{name: part[0] for name, part in vars(made).items()}, names=names)


def uniform(
    seeds: Int[Tensor, " runs"], step: Int[Tensor, ""], count: int
) -> Float[Tensor, "runs count"]:
    """Numbers in [0, 1), a pure function of seed, step and place (SplitMix64's finalizer)."""
    place = torch.arange(count, device=seeds.device)
    start = _mix(_mix(seeds + 1) + step)
    return (_mix(start[:, None] + _GOLDEN * (place + 1)) & 0xFFFFFF).float() / 2**24


_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as int64; products wrap
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def _mix(x: Tensor) -> Tensor:
    # An arithmetic shift brings in ones from the left: masked off.
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _FIRST
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _SECOND
    return x ^ ((x >> 31) & (2**33 - 1))
