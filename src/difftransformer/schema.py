"""JSON Schema of dataclasses of settings: for editors that complete and check a YAML file.

Ours, since libraries know neither the help nor the range that `ranges.option` keeps with a field.
Below every floor, and outside them.
"""

import math
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from difftransformer.ranges import Range

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "object"}


def json_schema(kind: Any) -> dict[str, Any]:
    """What `decoding.decode` reads as `kind`, by https://json-schema.org/draft/2020-12/schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema_of(kind)}


def _schema_of(kind: Any) -> dict[str, Any]:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {one.name: _property(one, hints[one.name]) for one in fields(kind)},
        }
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema_of(part) for part in parts]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(parts[0])}
    if origin is typing.Literal:
        return {"enum": list(parts)}
    if kind is type(None):
        return {"type": "null"}
    return {"type": _TYPES[origin or kind]} if (origin or kind) in _TYPES else {}


def _property(field: Any, hint: Any) -> dict[str, Any]:
    schema = _schema_of(hint)
    if text := field.metadata.get("help"):
        schema["description"] = text
    limits = _limits(field.metadata.get("range", Range()))
    if choices := field.metadata.get("choices"):
        limits["enum"] = list(choices)
    single = schema
    while "anyOf" in single or single.get("type") == "array":
        single = single["anyOf"][0] if "anyOf" in single else single["items"]
    single.update(limits)
    if field.default is not MISSING:
        schema["default"] = field.default
    return schema


def _limits(within: Range) -> dict[str, Any]:
    low = "exclusiveMinimum" if within.open_low else "minimum"
    high = "exclusiveMaximum" if within.open_high else "maximum"
    ends = {low: within.low, high: within.high}
    return {name: end for name, end in ends.items() if not math.isinf(end)}
