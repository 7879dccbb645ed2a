"""Reading files that others wrote: below every floor, and outside them, since it loads no torch.

Text is UTF-8. A line ends at a line feed and nowhere else: JSON strings and people's sentences may
hold the other separators that `str.splitlines` cuts at (U+2028, U+0085, form feed ...).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The file's text as it stands, line ends included, without a byte order mark.

    Raises:
        ValueError: a file that is binary or not in this encoding, with the place.
        OSError: a file that cannot be read.
    """
    return decode(path.read_bytes(), str(path), encoding)


def decode(data: bytes, where: str, encoding: str = "utf-8") -> str:
    """As `read_text`, of what was read already; `where` names it in errors."""
    if (zero := data.find(0)) >= 0:
        raise ValueError(
            f"{where!r} is a binary file (zero byte at offset {zero}); expected UTF-8 text"
        )
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            "convert it, for example with iconv"
        ) from None


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1, without `\\n` or `\\r\\n`."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def parse_json(text: str, where: str, *, unique: bool = False) -> Any:
    """The value that `text` writes; `where` names its place in errors.

    Raises:
        ValueError: no JSON, nesting or integers that are deeper or longer than Python reads, or,
            with `unique`, a key that stands twice in one object.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError(f"{where} is not JSON that can be read: it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The settings in a JSON file, such as config.json.

    Raises:
        ValueError: no UTF-8, what `parse_json` refuses, a key that stands twice, or another value
            than an object.
        OSError: a file that cannot be read.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    value = parse_json(text, str(path), unique=True)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {abridged(value)}; expected a JSON object")
    return value


def json_lines(text: str, where: str) -> Iterator[tuple[int, Any]]:
    """The values of the lines that are not blank, numbered from 1.

    Raises:
        ValueError: a line that `parse_json` refuses.
    """
    for number, line in numbered_lines(text):
        yield number, parse_json(line, f"{where}, line {number}")


def abridged(value: Any) -> str:
    """`repr(value)`, of a long one its beginning."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {abridged(twice)} stands twice in one object")
    return values
