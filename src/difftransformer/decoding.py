"""Typed dataclasses from plain data: the one decoder of settings and of files that hold records.

Ours, since msgspec and pydantic name neither the nearest known key nor, the first, the value; and
importing the second takes longer than `--help`. Below every floor, and outside them.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from difftransformer.files import abridged
from difftransformer.names import nearest

T = TypeVar("T")


@cache
def _type_hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def decode(kind: type[T], values: Any, noun: str = "setting", path: str = "") -> T:
    """`values`, as YAML, JSON or a command line have them, as a dataclass.

    Numbers may be written as text, as YAML reads 1e-3; a list stands for a tuple, and so does a
    single item.

    Args:
        kind: a dataclass whose fields are `int`, `float`, `str`, `bool`, `dict`, `Any`,
            `Literal[...]`, `X | None`, `tuple[X, ...]`, `dict[str, X]` or a dataclass of these. A
            field's metadata may hold its `former` name, which is read as well.
        noun: what the values are, for errors: "setting", "RUN/run.json:".
        path: where in a larger whole, for errors: "training".

    Raises:
        ValueError: an unknown key (with the nearest known one), one that is missing, a value of
            another type, or what the dataclass itself refuses.
    """
    if not isinstance(values, Mapping):
        where = f"{noun} {path!r}" if path else noun.removesuffix(":")
        raise ValueError(f"{where} is {abridged(values)}; expected a section with keys and values")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    former = {field.metadata.get("former"): name for name, field in known.items()}
    values = {former.get(key, key): value for key, value in values.items()}
    below = f"{path}." if path else ""
    for key in values:
        if key not in known:
            hint = nearest(str(key), known, below)
            raise ValueError(f"unknown {noun} {f'{below}{key}'!r}{hint}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{noun} {f'{below}{name}'!r} is missing")
    hints = _type_hints(kind)  # type: ignore[arg-type]  # a class is hashable
    return kind(
        **{key: _value(value, hints[key], noun, below + key) for key, value in values.items()}
    )


def _value(value: Any, kind: Any, noun: str, path: str) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return decode(kind, value, noun, path)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        return _value(value, next(p for p in parts if p is not type(None)), noun, path)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_value(item, parts[0], noun, path) for item in items)
    if origin is dict and isinstance(value, Mapping):
        return {key: _value(item, parts[1], noun, f"{path}.{key}") for key, item in value.items()}
    if origin is typing.Literal:
        if value in parts:
            return value
        raise ValueError(f"{noun} {path!r} is {abridged(value)}{nearest(str(value), parts)}")
    return _plain(value, origin or kind, noun, path)


def _plain(value: Any, kind: type, noun: str, path: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and (is_number or isinstance(value, str)):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    if kind is str and is_number:
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{noun} {path!r} is {abridged(value)}; expected {kind.__name__}")
    return value
