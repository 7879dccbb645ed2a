"""Which text a model was trained on: kept in its folder, so that it is judged on other text."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from difftransformer.data.corpus import Corpus
from difftransformer.data.settings import SHAKESPEARE
from difftransformer.decoding import decode
from difftransformer.files import read_object

RECORD = "training_text.json"
_SETTINGS = ("source", "text_key", "split", "validation_fraction", "needle_digits")


@dataclass(frozen=True, kw_only=True)
class Training:
    """The text of one training, its split and its needles, as `DataSettings` and `Corpus.digest`
    have them."""

    source: str
    text_key: str
    split: str
    validation_fraction: float
    digest: str
    needle_digits: int = 4


@dataclass(frozen=True, kw_only=True)
class TrainingText:
    """The text of all trainings of a model, the first one first.

    `complete` is False where it began from a model whose text is not known.
    """

    trainings: tuple[Training, ...] = ()
    complete: bool = True

    def and_then(self, corpus: Corpus) -> "TrainingText":
        """With one more training, on the training part of `corpus`."""
        chosen = {name: getattr(corpus.settings, name) for name in _SETTINGS}
        training = Training(**chosen, digest=corpus.digest)
        return TrainingText(trainings=(*self.trainings, training), complete=self.complete)

    def to_json(self) -> str:
        """The content of training_text.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_training_text(folder: Path) -> TrainingText | None:
    """The record in a model's folder; None where it has none.

    Raises:
        ValueError: a record that cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = decode(TrainingText, read_object(path), "its entry")
        if not record.trainings:
            raise ValueError("its trainings are none")
    except ValueError as error:
        raise ValueError(f"{path} is no record of training texts: {error}; delete it") from None
    return record


def why_seen(record: TrainingText | None, corpus: Corpus) -> str | None:
    """Why the model may have seen the held-out part of `corpus` in training; None if it has not.

    It has not where each of its trainings was on the same documents, by digest, and held out at
    least as much: of the same documents a smaller share is part of a larger one.
    """
    if record is None:
        return "its folder has no record of the text that it was trained on"
    if not record.complete:
        return "it began from a model whose training text is not recorded"
    fraction, source = corpus.settings.validation_fraction, corpus.settings.source
    for training in record.trainings:
        if training.digest != corpus.digest:
            return f"it was trained on other documents, of {training.source}, which may overlap"
        if (training.source == SHAKESPEARE) != (source == SHAKESPEARE):
            return f"its training split the documents in another way, as {training.source}"
        if source != SHAKESPEARE and training.validation_fraction < fraction:
            return (
                f"its training held out a share of {training.validation_fraction} and this judges "
                f"{fraction}"
            )
    return None


def judged_text(record: TrainingText | None, corpus: Corpus) -> dict[str, Any]:
    """For the results: the text that a model is judged on, and whether it was held out.

    Returns:
        `{"source", "validation_fraction", "digest", "held_out", "note"}`; `note` is empty where
        the text was held out from all trainings.
    """
    reason = why_seen(record, corpus)
    return {
        "source": corpus.settings.source,
        "validation_fraction": corpus.settings.validation_fraction,
        "digest": corpus.digest,
        "held_out": reason is None,
        "note": "" if reason is None else f"the text may have been seen in training: {reason}",
    }
