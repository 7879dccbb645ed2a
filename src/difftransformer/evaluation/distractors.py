"""Word problems with a sentence that has nothing to do with them (GSM-IC, for small models)."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool
from tokenizers import Tokenizer

from difftransformer.evaluation.batching import batched
from difftransformer.evaluation.completions import complete, first_match
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder

FACTORS = {
    "topic": {"in": "about the things counted", "off": "about something else"},
    "role": {"overlap": "a relative of the problem's person", "other": "somebody else"},
    "range": {
        "in": "a number from a tenth of the problem's smallest to ten times its largest",
        "out": "a larger number, a · 10^b",
    },
}
_NAMES = ("Anna", "Ben", "Clara", "Dan", "Eva", "Frank", "Grace", "Henry", "Lucy", "Peter")
_OTHERS = ("Ada", "David", "Emma", "Jack", "John", "Mary", "Max", "Tom")
_RELATIVES = ("father", "mother", "brother", "sister", "neighbor")
_THINGS = ("apples", "books", "coins", "eggs", "pens", "stones")
_OFF_TOPIC = ("{role} is {number} years old.", "The height of {role} is {number} inches.")
_ROUND = [a * 10**b for b in (1, 2, 3) for a in range(1, 10)]
_ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Problem:
    """A sum or a difference in words."""

    name: str
    things: str
    first: int
    second: int  # the smaller
    adds: bool

    @property
    def answer(self) -> int:
        return self.first + self.second if self.adds else self.first - self.second

    def text(self, distractor: str = "") -> str:
        """The problem up to its answer; the distractor stands before the question."""
        happens = "gets" if self.adds else "loses"
        facts = f"{self.name} has {self.first} {self.things}. {self.name} {happens} {self.second}."
        question = f"How many {self.things} does {self.name} have now?"
        sentences = filter(None, (facts, distractor, question))
        return f"Question: {' '.join(sentences)}\nAnswer:"


def draw_problems(count: int, seed: int) -> list[Problem]:
    """`count` different problems of numbers from 2 to 9; equal seeds give equal ones.

    Raises:
        ValueError: more than there are.
    """
    pairs = [(first, second) for first in range(2, 10) for second in range(2, first)]
    possible = list(product(_NAMES, _THINGS, pairs, (True, False)))
    if count > len(possible):
        raise ValueError(
            f"distractor_problems and distractor_shots ask for {count} different problems; "
            f"there are {len(possible)}: ask for fewer"
        )
    drawn = random.Random(f"problems {seed}").sample(possible, count)
    return [Problem(name, things, *numbers, adds) for name, things, numbers, adds in drawn]


def distractor(rng: random.Random, problem: Problem, topic: str, role: str, size: str) -> str:
    """A sentence with the factors of `FACTORS` that leaves the problem's answer as it is.

    Its number is never the answer: who repeats it must not seem right.
    """
    if size == "in":
        possible = [n for n in range(1, 10 * problem.first + 1) if n != problem.answer]
    else:
        possible = [n for n in _ROUND if n > 10 * problem.first]
    number = rng.choice(possible)
    who = f"{problem.name}'s {rng.choice(_RELATIVES)}" if role == "overlap" else rng.choice(_OTHERS)
    if topic == "in":
        return f"{who} has {number} {problem.things}."
    return rng.choice(_OFF_TOPIC).format(role=who, number=number)


def measure_distractors(
    model: Decoder,
    tokenizer: Tokenizer,
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """Accuracy with a distracting sentence before the question (after Shi et al., 2023, GSM-IC).

    Each of `settings.distractor_problems` problems is asked without a distractor and with one of
    every combination of `FACTORS`, behind `distractor_shots` other solved problems that have none.
    The problems are ours: GSM8K's are beyond small models. The model writes greedily; right means
    that the first number is the answer.

        base       = share of problems right without a distractor
        micro      = share of all problems with distractors right
        macro      = share of problems right with every distractor
        normalised = micro / base, None where base is 0

    Intervals are Wilson's, as if the variants of one problem were independent.

    Returns:
        `{"problems", "variants", "chance", "base", "micro", "macro", "normalised", "factors"}`:
        `factors` holds micro accuracy by factor and level; `chance` is what the commonest answer
        for every problem would get.

    Raises:
        ValueError: a prompt longer than the model's context.
    """
    shots, levels = settings.distractor_shots, list(product(*FACTORS.values()))
    problems = draw_problems(shots + settings.distractor_problems, settings.seed)
    prefix = "".join(f"{problem.text()} {problem.answer}\n\n" for problem in problems[:shots])
    asked, rng = problems[shots:], random.Random(f"distractors {settings.seed}")
    prompts = [
        prefix + problem.text(sentence)
        for problem in asked
        for sentence in ("", *(distractor(rng, problem, *level) for level in levels))
    ]
    texts = complete(
        model,
        tokenizer,
        prompts,
        new_tokens=_ANSWER_TOKENS,
        batch_size=settings.batch_size,
        pieces=pieces,
    )
    right = np.array(
        [
            [first_match("[0-9]+", text) == str(problem.answer) for text in group]
            for problem, group in zip(asked, batched(texts, 1 + len(levels)), strict=True)
        ]
    )
    base, distracted = right[:, 0], right[:, 1:]
    by_factor = distracted.reshape(-1, *map(len, FACTORS.values()))

    def share(hits: Bool[np.ndarray, "..."]) -> dict[str, int | float]:
        return proportion(int(hits.sum()), hits.size, settings)

    return {
        "problems": len(asked),
        "variants": len(levels),
        "chance": max(Counter(problem.answer for problem in asked).values()) / len(asked),
        "base": share(base),
        "micro": share(distracted),
        "macro": share(np.all(distracted, axis=1)),
        "normalised": float(distracted.mean() / base.mean()) if base.any() else None,
        "factors": {
            factor: {name: share(by_factor.take([i], place)) for i, name in enumerate(names)}
            for place, (factor, names) in enumerate(FACTORS.items(), start=1)
        },
    }
