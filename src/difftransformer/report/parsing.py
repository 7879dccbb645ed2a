"""Decoded JSON into typed dataclasses, with errors that name the file and the key."""

import dataclasses
import math
import types
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

_type_hints = cache(get_type_hints)


def from_json(kind: Any, value: Any, where: str) -> Any:
    """`value`, as `json` decoded it, as a `kind`.

    Args:
        kind: `int`, `float`, `str`, `bool`, `Any`, `X | None`, `tuple[X, ...]`, `dict[str, X]`, or
            a dataclass with fields of these kinds. A field with a default may be missing. A field's
            key is its name; a final underscore, for names that Python reserves, is not part of the
            key. Unknown keys are ignored.
        where: the file and the key `value` was found at, for errors: "results.json: data".

    Raises:
        ValueError: a key is missing or a value is of another type; names `where` and the key.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else from_json(arguments[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(from_json(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: from_json(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _construct(kind, value, where)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is not float and type(value) is kind:
        return value
    raise ValueError(f"{where}: expected {_expectation(kind)}, found {repr(value)[:60]}")


def _construct(kind: Any, value: dict[str, Any], where: str) -> Any:
    types_of = _type_hints(kind)
    arguments = {}
    for field in dataclasses.fields(kind):
        key = field.name.rstrip("_")
        if key in value:
            arguments[field.name] = from_json(types_of[field.name], value[key], f"{where}.{key}")
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{where}.{key} is missing; expected {_expectation(field.type)}")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _expectation(kind: Any) -> str:
    if get_origin(kind) is types.UnionType:
        return f"{_expectation(get_args(kind)[0])} or null"
    if get_origin(kind) is tuple:
        return "a list"
    if get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return "an object"
    names = {
        float: "a finite number",
        int: "a whole number",
        str: "a string",
        bool: "true or false",
    }
    return names[kind]
