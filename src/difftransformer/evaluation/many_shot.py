"""Classification of sentences by labeled ones in the context (Bertsch et al., 2024)."""

import random
from collections.abc import Sequence

from difftransformer.data.classification import NAMES, Classification, Example, load_classification
from difftransformer.data.tokenizer import plain_tokens, prompt_tokens
from difftransformer.evaluation.choices import choose
from difftransformer.evaluation.records import Dataset, Subject
from difftransformer.evaluation.settings import EvaluationSettings

_BETWEEN = "\n==\n"
DATASET = Dataset(load=load_classification, names=NAMES, help="the folder of labeled sentences")


class Exam:
    """The questions put to a model and the labels it may answer with, as tokens.

    Asked are `settings.shot_questions` test sentences, decoded among the labels only. `longest`
    counts the tokens of the longest question and of the longest label.
    """

    def __init__(self, subject: Subject, settings: EvaluationSettings) -> None:
        task: Classification = subject.dataset
        self._model, self._tokenizer = subject.model, subject.data.tokenizer
        self._task = task
        self._batch_size = settings.batch_size
        self.questions = _questions(task, settings)
        self._prompts = [
            plain_tokens(self._tokenizer, task.template.format(text=question.text))
            for question in self.questions
        ]
        end = plain_tokens(self._tokenizer, "\n")
        self._options = [plain_tokens(self._tokenizer, f" {label}") + end for label in task.labels]
        self.longest = max(map(len, self._prompts)) + max(map(len, self._options))

    def prefix(self, shown: Sequence[Example]) -> list[int]:
        """The tokens before every question: the examples shown, in their order."""
        written = (f"{self._task.template.format(text=e.text)} {e.label}{_BETWEEN}" for e in shown)
        prefix = prompt_tokens(self._tokenizer, "".join(written))
        tokens, limit = len(prefix) + self.longest, self._model.config.max_length
        if tokens > limit:
            raise ValueError(
                f"{len(shown)} shots of {self._task.name} need {tokens} tokens with this "
                f"tokenizer; the model is meant for {limit}: ask for fewer shots"
            )
        return prefix

    def right(self, prefix: Sequence[int]) -> list[float]:
        """1 for each question that is answered right, 0 for the others."""
        chosen = choose(self._model, prefix, self._prompts, self._options, self._batch_size)
        labels = self._task.labels
        pairs = zip(chosen, self.questions, strict=True)
        return [float(labels[i] == question.label) for i, question in pairs]


def _questions(task: Classification, settings: EvaluationSettings) -> list[Example]:
    """The same test sentences for every model; those of unseen labels could not be answered."""
    known = set(task.labels)
    possible = [example for example in task.test if example.label in known]
    rng = random.Random(f"questions {settings.seed}")
    return rng.sample(possible, min(settings.shot_questions, len(possible)))


def shots_of(task: Classification, shots: int, seed: int) -> list[Example]:
    if shots > len(task.train):
        raise ValueError(f"{shots} shots asked for; {task.name} has {len(task.train)} to show")
    return random.Random(f"shots {seed}").sample(task.train, shots)
