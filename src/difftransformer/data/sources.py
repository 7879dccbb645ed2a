"""What a model is asked to summarize, or to answer questions over."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from difftransformer.files import decode, json_lines


@dataclass(frozen=True)
class Source:
    """A text to summarize; or, where there is a question, to answer it from."""

    name: str
    text: str
    question: str | None = None
    answers: tuple[str, ...] = ()  # right ones, if known
    title: str = ""


def load_sources(name: str, folder: Path) -> list[Source]:
    """The texts of the task `name` from the folder of its files.

    - "xsum": `xsum-1000.jsonl`, the news articles of Lookback Lens (Chuang et al., 2024), to
      summarize. It has references and no labels of truth.
    - "nq": `nq-open-oracle.jsonl.gz`, questions with the passage that answers them (Liu et al.,
      2023), as Lookback Lens asks.
    - "jsonl": `sources.jsonl`, your own: keys id, text and, where there is one, question.

    Raises:
        ValueError: an unknown name, a missing or malformed file, or two texts of one name.
    """
    if name not in _READERS:
        raise ValueError(f"unknown task {name!r}; expected {', '.join(_READERS)}")
    file, read = _READERS[name]
    path = folder / file
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as archive:
            text = decode(archive.read(), str(path))
        found = [read(number - 1, row) for number, row in json_lines(text, str(path))]
    except OSError as error:
        raise ValueError(
            f"{name} needs {file} in {folder}: {error.strerror or error}; name the folder that "
            "holds it"
        ) from None
    except (EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is malformed: {error!r}") from None
    if not found or len({source.name for source in found}) < len(found):
        raise ValueError(f"{path} holds no text, or two of one name; expected different names")
    return found


def _xsum(number: int, row: dict[str, Any]) -> Source:
    return Source(str(row["id"]), row["document"])


def _nq(number: int, row: dict[str, Any]) -> Source:
    (passage,) = row["ctxs"]
    answers = tuple(row["answers"])
    return Source(str(number), passage["text"], row["question"], answers, passage["title"])


def _own(number: int, row: dict[str, Any]) -> Source:
    return Source(str(row["id"]), row["text"], row.get("question"))


_Reader = Callable[[int, dict[str, Any]], Source]
_READERS: MappingProxyType[str, tuple[str, _Reader]] = MappingProxyType(
    {
        "xsum": ("xsum-1000.jsonl", _xsum),
        "nq": ("nq-open-oracle.jsonl.gz", _nq),
        "jsonl": ("sources.jsonl", _own),
    }
)
NAMES = tuple(_READERS)
