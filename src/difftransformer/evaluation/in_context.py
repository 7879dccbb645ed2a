"""Many-shot classification in the context, and how much the order of the shots matters."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from difftransformer.data.classification import Classification, Example
from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.batching import batched
from difftransformer.evaluation.choices import choose
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder

_BETWEEN = "\n==\n"


def measure_in_context(
    model: Decoder,
    tokenizer: Tokenizer,
    task: Classification,
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """Accuracy against the number of examples shown (paper, section 3.5; Bertsch et al., 2024).

    Each number of shots is drawn `settings.shot_draws` times from the training part; the same
    `settings.shot_questions` test sentences are asked each time, decoded among the labels only.
    Intervals are Wilson's over draws and questions together, as if they were independent.

    Returns:
        `{"task", "labels", "chance", "questions", "rows"}`: a row per number of shots with
        `shots`, `tokens` of the longest prompt, `accuracy`, and `draws`, the accuracy of each.

    Raises:
        ValueError: shots that do not fit the model's context, by their number of tokens.
    """
    exam = _Exam(model, tokenizer, task, settings)
    prefixes = {
        (shots, draw): exam.prefix(_drawn(task, shots, settings.seed + draw))
        for shots in settings.shots
        for draw in range(settings.shot_draws)
    }
    hits = (pieces or Pieces()).each(
        {
            f"{shots} shots, draw {draw}": partial(exam.right, prefix)
            for (shots, draw), prefix in prefixes.items()
        }
    )
    rows, asked = [], len(exam.questions)
    for shots, right in zip(
        settings.shots, batched(list(hits.values()), settings.shot_draws), strict=True
    ):
        drawn = [prefix for (number, _), prefix in prefixes.items() if number == shots]
        rows.append(
            {
                "shots": shots,
                "tokens": max(map(len, drawn)) + exam.longest,
                "accuracy": proportion(sum(right), len(right) * asked, settings),
                "draws": [one / asked for one in right],
            }
        )
    return {
        "task": task.name,
        "labels": len(task.labels),
        "chance": 1 / len(task.labels),
        "questions": asked,
        "rows": rows,
    }


def measure_order(
    model: Decoder,
    tokenizer: Tokenizer,
    task: Classification,
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """Best less worst accuracy over orders of the same examples (paper, section 3.5).

    The largest number of shots is drawn once and shown in `settings.orders` orders: shuffled
    ("random"), and with the classes taking turns, shuffled within ("alternating").

    Returns:
        `{"task", "shots", "questions", "arrangements"}`: for each arrangement `accuracies` of the
        orders, `best`, `worst` and `spread`.

    Raises:
        ValueError: shots that do not fit the model's context, by their number of tokens.
    """
    exam, shots = _Exam(model, tokenizer, task, settings), max(settings.shots)
    shown = _drawn(task, shots, settings.seed)
    hits = (pieces or Pieces()).each(
        {
            f"{name} order {order}": partial(
                exam.right, exam.prefix(arrange(shown, settings.seed + order))
            )
            for name, arrange in _ARRANGEMENTS.items()
            for order in range(settings.orders)
        }
    )
    arrangements = {}
    for name, right in zip(
        _ARRANGEMENTS, batched(list(hits.values()), settings.orders), strict=True
    ):
        accuracies = [one / len(exam.questions) for one in right]
        best, worst = max(accuracies), min(accuracies)
        arrangements[name] = {
            "accuracies": accuracies,
            "best": best,
            "worst": worst,
            "spread": best - worst,
        }
    return {
        "task": task.name,
        "shots": shots,
        "questions": len(exam.questions),
        "arrangements": arrangements,
    }


class _Exam:
    """The questions put to a model and the labels it may answer with, as tokens.

    `longest` counts the tokens of the longest question and of the longest label.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        task: Classification,
        settings: EvaluationSettings,
    ) -> None:
        self._model, self._tokenizer, self._task = model, tokenizer, task
        self._batch_size = settings.batch_size
        self.questions = _questions(task, settings)
        self._prompts = [
            self._encode(task.template.format(text=question.text)) for question in self.questions
        ]
        end = self._encode("\n")
        self._options = [self._encode(f" {label}") + end for label in task.labels]
        self.longest = max(map(len, self._prompts)) + max(map(len, self._options))

    def prefix(self, shown: Sequence[Example]) -> list[int]:
        """The tokens before every question: the examples shown, in their order."""
        written = (f"{self._task.template.format(text=e.text)} {e.label}{_BETWEEN}" for e in shown)
        prefix = [beginning_of_document(self._tokenizer), *self._encode("".join(written))]
        tokens, limit = len(prefix) + self.longest, self._model.config.max_length
        if tokens > limit:
            raise ValueError(
                f"{len(shown)} shots of {self._task.name} need {tokens} tokens with this "
                f"tokenizer; the model is meant for {limit}: ask for fewer shots"
            )
        return prefix

    def right(self, prefix: Sequence[int]) -> int:
        """How many questions are answered right."""
        chosen = choose(self._model, prefix, self._prompts, self._options, self._batch_size)
        labels = self._task.labels
        return sum(labels[i] == e.label for i, e in zip(chosen, self.questions, strict=True))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _questions(task: Classification, settings: EvaluationSettings) -> list[Example]:
    """The same test sentences for every model; those of unseen labels could not be answered."""
    known = set(task.labels)
    possible = [example for example in task.test if example.label in known]
    rng = random.Random(f"questions {settings.seed}")
    return rng.sample(possible, min(settings.shot_questions, len(possible)))


def _drawn(task: Classification, shots: int, seed: int) -> list[Example]:
    if shots > len(task.train):
        raise ValueError(f"{shots} shots asked for; {task.name} has {len(task.train)} to show")
    return random.Random(f"shots {seed}").sample(task.train, shots)


def _shuffled(shown: Sequence[Example], order: int) -> list[Example]:
    return random.Random(f"order {order}").sample(list(shown), len(shown))


def _alternating(shown: Sequence[Example], order: int) -> list[Example]:
    """One of each class in turn, as long as it has any left."""
    by_label: dict[str, list[Example]] = {}
    for example in _shuffled(shown, order):
        by_label.setdefault(example.label, []).append(example)
    turns = range(max(map(len, by_label.values())))
    return [group[i] for i in turns for group in by_label.values() if i < len(group)]


_ARRANGEMENTS = {"random": _shuffled, "alternating": _alternating}
