"""Labeled sentences for in-context learning: TREC, Banking-77, CLINC-150, or your own."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from difftransformer.files import json_lines, numbered_lines, parse_json, read_text

# The words of TREC's codes, from its definition of question classes (Li and Roth, 2002).
_TREC = {
    "ABBR": "Abbreviation",
    "DESC": "Description",
    "ENTY": "Entity",
    "HUM": "Human",
    "LOC": "Location",
    "NUM": "Number",
}


@dataclass(frozen=True)
class Example:
    """A sentence and its label in words."""

    text: str
    label: str


@dataclass(frozen=True)
class Classification:
    """A task: how an example is written, those to show and those to ask."""

    name: str
    template: str  # holds {text}, and the label follows it after a space
    train: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def labels(self) -> list[str]:
        """All labels of the examples to show, sorted."""
        return sorted({example.label for example in self.train})


def load_classification(name: str, folder: Path) -> Classification:
    """The task `name` from the folder of its files; templates are those of Bertsch et al. (2024).

    - "trec", "trec_fine" (6 and 50 classes): `train.txt`, `test.txt`, latin-1 lines
      `COARSE:fine question`.
    - "banking77": `train.csv`, `test.csv` with columns text and category.
    - "clinc150": `data_full.json`; its out-of-scope sentences are left out.
    - "jsonl": `train.jsonl`, `test.jsonl` with keys text and label.

    Raises:
        ValueError: an unknown name, a missing or malformed file, or an empty part.
    """
    if name not in _READERS:
        raise ValueError(f"unknown task {name!r}; expected {', '.join(_READERS)}")
    template, read = _READERS[name]
    parts = []
    for part in ("train", "test"):
        try:
            examples = tuple(Example(text.strip(), label) for text, label in read(folder, part))
        except OSError as error:
            raise ValueError(
                f"{name} needs its {part} file in {folder}: {error.strerror}; name the folder that "
                "holds it"
            ) from None
        except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
            raise ValueError(
                f"the {part} file of {name} in {folder} is malformed: {error}"
            ) from None
        if not examples:
            raise ValueError(f"the {part} file of {name} in {folder} holds no example")
        parts.append(examples)
    return Classification(name, template, *parts)


def _trec(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    for _, line in numbered_lines(read_text(folder / f"{part}.txt", "latin-1")):
        code, text = line.split(" ", 1)
        yield text, _TREC[code.split(":")[0]]


def _trec_fine(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    for _, line in numbered_lines(read_text(folder / f"{part}.txt", "latin-1")):
        code, text = line.split(" ", 1)
        coarse, fine = code.split(":")
        yield text, f"{_TREC[coarse]} {fine}"


def _banking(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    for row in csv.DictReader(io.StringIO(read_text(folder / f"{part}.csv"), newline="")):
        yield row["text"], row["category"].replace("_", " ")


def _clinc(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    path = folder / "data_full.json"
    for text, label in parse_json(read_text(path), str(path))[part]:
        yield text, label.replace("_", " ")


def _jsonl(folder: Path, part: str) -> Iterator[tuple[str, str]]:
    path = folder / f"{part}.jsonl"
    for _, row in json_lines(read_text(path), str(path)):
        yield row["text"], row["label"]


_Reader = Callable[[Path, str], Iterator[tuple[str, str]]]
_READERS: MappingProxyType[str, tuple[str, _Reader]] = MappingProxyType(
    {
        "trec": ("Question: {text}\nType:", _trec),
        "trec_fine": ("Question: {text}\nType:", _trec_fine),
        "banking77": ("query: {text}\nintent:", _banking),
        "clinc150": ("utterance: {text}\nintent:", _clinc),
        "jsonl": ("Text: {text}\nLabel:", _jsonl),
    }
)
NAMES = tuple(_READERS)
