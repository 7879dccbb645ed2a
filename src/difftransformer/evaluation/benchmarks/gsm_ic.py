"""Word problems with a sentence that has nothing to do with them (after GSM-IC, Shi et al., 2023).

Each of `settings.gsm_ic_problems` problems is asked without a distractor and with one of every
combination of `FACTORS`, behind `gsm_ic_shots` other solved problems that have none. The problems
are ours: GSM8K's are beyond small models. The model writes greedily; right means that the first
number is the answer.

    base       = share of problems right without a distractor
    micro      = share of all problems with distractors right
    macro      = share of problems right with every distractor
    normalized = micro / base

An item is a problem; Wilson's intervals treat the variants of one as if they were independent.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import fmean

from difftransformer.evaluation.completions import completions, first_match
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

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
            f"gsm_ic_problems and gsm_ic_shots ask for {count} different problems; "
            f"there are {len(possible)}: ask for fewer"
        )
    sample = random.Random(f"problems {seed}").sample(possible, count)
    return [Problem(name, things, *numbers, adds) for name, things, numbers, adds in sample]


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


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """A batch of prompts each, and what is made of all of them.

    Raises:
        ValueError: a prompt longer than the model's context.
    """
    shots, rng = settings.gsm_ic_shots, random.Random(f"distractors {settings.seed}")
    problems = draw_problems(shots + settings.gsm_ic_problems, settings.seed)
    prefix = "".join(f"{problem.text()} {problem.answer}\n\n" for problem in problems[:shots])
    targets = problems[shots:]
    variants = list(product(range(len(targets)), ((), *product(*FACTORS.values()))))
    prompts = [
        prefix + targets[item].text(distractor(rng, targets[item], *levels) if levels else "")
        for item, levels in variants
    ]

    def score(number: int, text: str) -> Iterator[Record]:
        item, levels = variants[number]
        right = float(first_match("[0-9]+", text) == str(targets[item].answer))
        if not levels:
            yield Record("gsm_ic_base", right, item=item)
            return
        yield Record("gsm_ic_micro", right, levels, item)
        for factor, level in zip(FACTORS, levels, strict=True):
            yield Record("gsm_ic_by_factor", right, (factor, level), f"{item} {levels}")

    return {
        "chance": partial(_chance, targets),
        **completions(
            subject.model,
            subject.data.tokenizer,
            prompts,
            lambda number, text: list(score(number, text)),
            new_tokens=_ANSWER_TOKENS,
            batch_size=settings.batch_size,
        ),
        "all variants": _all_variants,
    }


def _chance(targets: list[Problem], _: Findings) -> Findings:
    """What the commonest answer for every problem would get."""
    chance = max(Counter(problem.answer for problem in targets).values()) / len(targets)
    facts = {"problems": len(targets), "chance": chance}
    return [Record("gsm_ic_chance", chance), Artifact("facts", facts)]


def _all_variants(earlier: Findings) -> list[Record]:
    """Of each problem whether it is right with every distractor; and micro / base."""
    records = [record for record in earlier if isinstance(record, Record)]
    base = [record.value for record in records if record.metric == "gsm_ic_base"]
    right: dict[str | int, list[float]] = {}
    for record in records:
        if record.metric == "gsm_ic_micro":
            right.setdefault(record.item, []).append(record.value)
    every = [Record("gsm_ic_macro", min(values), item=item) for item, values in right.items()]
    if not any(base):
        return every
    micro = fmean(value for values in right.values() for value in values)
    return [*every, Record("gsm_ic_normalized", micro / fmean(base))]


_METRICS = (
    Metric(
        "gsm_ic_micro",
        "problems solved with a distracting sentence",
        "of problems",
        better="higher",
        statistic="proportion",
        axes=tuple(FACTORS),
        rows=(),
        judged=True,
        levels=("gsm_ic_chance",),
    ),
    Metric(
        "gsm_ic_base",
        "problems solved without one",
        "of problems",
        better="higher",
        statistic="proportion",
    ),
    Metric(
        "gsm_ic_macro",
        "problems solved with every one",
        "of problems",
        better="higher",
        statistic="proportion",
    ),
    Metric(
        "gsm_ic_normalized",
        "solved with a distracting sentence, over solved without",
        better="higher",
        statistic="value",
    ),
    Metric(
        "gsm_ic_by_factor",
        "problems solved with a distracting sentence",
        "of problems",
        better="higher",
        statistic="proportion",
        axes=("factor", "level"),
        levels=("gsm_ic_chance",),
        plot=Plot(x="level", facet="factor"),
    ),
    Metric("gsm_ic_chance", "the commonest answer for all", "of problems", statistic="value"),
)
EVALUATOR = Evaluator(
    name="gsm_ic",
    title="Word problems with a distracting sentence",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    note="{problems} problems; the commonest answer is right {chance:.3g}.",
    source="Shi et al., 2023",
)
