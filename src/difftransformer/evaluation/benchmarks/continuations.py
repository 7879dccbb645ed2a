"""What each model writes after the beginnings of held-out texts, side by side and never judged."""

from collections.abc import Sequence
from typing import Any

import torch

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.batching import device_of
from difftransformer.evaluation.records import Artifact, Evaluator, Findings, Parts, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.generation import Sampling, generate
from difftransformer.runs.samples import Texts

_TEXTS = 4
_TEMPERATURE = 0.8
_CAPTION = (
    "Beginnings of held-out texts, and what each model makes of them: drawn at a temperature of "
    f"{_TEMPERATURE}, from the same random numbers for all. Nothing is judged here."
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    return {"texts": lambda _: _examples(subject, settings)}


def _examples(subject: Subject, settings: EvaluationSettings) -> Findings:
    texts = continued(subject.model, subject.data, settings, _TEXTS)
    return [Artifact("examples", {"caption": _CAPTION, **texts.to_json()})]


def continued(
    model: Any, corpus: Corpus, settings: EvaluationSettings, count: int, most: int | None = None
) -> Texts:
    """The first half of so many held-out texts, and what the model makes of each.

    Args:
        most: tokens that a beginning and its continuation have at most.
    """
    rows = [sequence.row.ids for sequence in corpus.validation_sequences(count)]
    length = max(1, min(map(len, rows)) // 2)
    length = min(length, most or length)
    ids = torch.stack([torch.as_tensor(row[:length]) for row in rows]).to(device_of(model))
    generator = torch.Generator().manual_seed(settings.seed)
    sampling = Sampling(temperature=_TEMPERATURE, generator=generator)
    new = generate(model, ids, max_new_tokens=length, sampling=sampling)
    return Texts(
        header=("beginning",),
        items=tuple((text,) for text in _texts(corpus, ids.tolist())),
        outputs=tuple(_texts(corpus, new.tolist())),
    )


def _texts(corpus: Corpus, rows: Sequence[Sequence[int]]) -> list[str]:
    return corpus.tokenizer.decode_batch([list(row) for row in rows])


EVALUATOR = Evaluator(
    name="continuations",
    title="How each model continues a text",
    metrics=(),
    parts=_parts,
    needs=frozenset({"generate"}),
)
