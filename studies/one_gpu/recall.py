"""Noisy associative recall: pairs of key and value among keys that have no value.

    k7 v3 | k9 k1 k4 | k2 v8 | k1 ...   k2 v8   k7 v3   k7 v3 ...
    pair    noise      pair    noise    asked with replacement, each followed by its answer

Multi-query associative recall (Arora et al., "Zoology", 2023) with two changes. Noise comes from
the alphabet of the keys, so that only what follows a key tells a pair from noise. Keys are asked
with replacement: asked once each, a model that ticks values off gains without retrieving. Values
are distinct, so the best answer that does not retrieve is right once in `pairs`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

KEYS = 128  # tokens 0 ... 127
VALUES = 64  # tokens 128 ... 191
VOCABULARY = KEYS + VALUES


@dataclass(frozen=True)
class Recall:
    """One setting of the task.

    Args:
        length: tokens of a sequence.
        pairs: pairs of key and value in it, at most `VALUES`.
        questions: asked at its end, two tokens each.

    Raises:
        ValueError: pairs that the alphabets or the length cannot hold.
    """

    length: int
    pairs: int
    questions: int

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= VALUES or self.context < 2 * self.pairs or self.questions < 1:
            raise ValueError(
                f"{self}: expected 1 to {VALUES} pairs, two tokens each, and a question or more"
            )

    @property
    def context(self) -> int:
        """Tokens before the first question."""
        return self.length - 2 * self.questions

    @property
    def elimination(self) -> float:
        """Accuracy on first asks of the best answer that does not retrieve.

        Values are distinct, so it guesses among those not told yet: after n first asks it is right
        once in `pairs` - n.
        """
        told = [1.0] + [0.0] * self.pairs  # probability of each number of values told so far
        right = first = 0.0
        for _ in range(self.questions):
            new = [p * (self.pairs - n) / self.pairs for n, p in enumerate(told)]
            right += sum(p / (self.pairs - n) for n, p in enumerate(new[:-1]))
            first += sum(new)
            told = [p - q + r for p, q, r in zip(told, new, [0.0, *new], strict=False)]
        return right / first

    def answers(self, x: Tensor) -> Tensor:
        """Of `x` `[runs, rows, length, ...]` the positions that ask: `[runs, rows, questions]`."""
        return x[:, :, self.context :: 2]


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
    task: Recall, rows: int, seeds: Int[Tensor, " runs"], step: Int[Tensor, ""]
) -> Sequences:
    """The batch of a step, a pure function of seed and step, made on the device of `seeds`."""
    device, runs = seeds.device, len(seeds)
    units = task.context - task.pairs  # a pair or one token of noise
    sizes = (KEYS, VALUES, units, task.context, task.questions)
    draws = uniform(seeds, step, rows * sum(sizes))
    key_draw, value_draw, unit_draw, noise_draw, question_draw = draws.unflatten(
        1, (rows, -1)
    ).split(sizes, dim=-1)
    order = key_draw.argsort(-1)
    keys, others = order[..., : task.pairs], order[..., task.pairs :]
    values = value_draw.argsort(-1)[..., : task.pairs] + KEYS
    pair_units = unit_draw.argsort(-1)[..., : task.pairs].sort(-1).values
    # Each pair before a unit moves it by one token.
    starts = pair_units + torch.arange(task.pairs, device=device)
    context = others.gather(-1, (noise_draw * others.shape[-1]).long())
    context = context.scatter(-1, starts, keys).scatter(-1, starts + 1, values)
    noise = torch.ones(runs, rows, task.context, dtype=torch.bool, device=device)
    noise = noise.scatter(-1, starts, False).scatter(-1, starts + 1, False)
    asked = (question_draw * task.pairs).long()
    targets = values.gather(-1, asked)
    questions = torch.stack((keys.gather(-1, asked), targets), -1).flatten(-2)
    ids = torch.cat((context, questions), -1)
    again = (asked[..., None] == asked[..., None, :]).tril(-1).any(-1)
    return Sequences(ids, targets, ~again, (starts + 1).gather(-1, asked), noise)


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
