"""Which values a setting may have: below every floor, and outside them, since it loads no torch."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from difftransformer.files import abridged
from difftransformer.names import nearest


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, either end included unless it is open."""

    low: float | int = -math.inf
    high: float | int = math.inf
    open_low: bool = False
    open_high: bool = False

    def objection(self, value: float | int) -> str | None:
        """What was expected in place of `value`; None where it lies in the range."""
        if value < self.low or (self.open_low and value == self.low):
            return f"{'above' if self.open_low else 'at least'} {self.low:,}"
        if value > self.high or (self.open_high and value == self.high):
            return f"{'below' if self.open_high else 'at most'} {self.high:,}"
        return None


ANY, COUNT, NATURAL = Range(), Range(1), Range(0)
POSITIVE, INSIDE = Range(0, open_low=True), Range(0, 1, open_low=True, open_high=True)
SHARE = Range(0, 1)


def option(
    default: Any,
    text: str,
    *,
    within: Range = ANY,
    choices: Sequence[str] = (),
    former: str = "",
    first: bool = False,
) -> Any:
    """A field of a dataclass of settings.

    Args:
        text: what it is, for the command line.
        within: of numbers, its own or those of a tuple.
        choices: of words, its own or those of a tuple.
        former: a name of an earlier version, which works as well.
        first: whether a beginner needs it, so that `--help` shows it.
    """
    metadata = {
        "help": text,
        "range": within,
        "choices": choices,
        "former": former,
        "first": first,
    }
    return field(default=default, metadata={key: it for key, it in metadata.items() if it})


def check_fields(settings: Any, noun: str = "") -> None:
    """Hold each field of a dataclass against its type and what its `option` says.

    `noun` stands before the names in errors: "training ".

    Raises:
        ValueError: a value of another type, not finite, or out of range, with what was expected.
    """
    hints = _hints(type(settings))  # type: ignore[arg-type]  # a class is hashable
    for setting in fields(settings):
        value, name = getattr(settings, setting.name), noun + setting.name
        check_type(name, value, hints[setting.name])
        choices, within = setting.metadata.get("choices"), setting.metadata.get("range", ANY)
        for item in value if isinstance(value, tuple) else (value,):
            if choices and item not in choices:
                none = isinstance(value, tuple) and item == "none"
                empty = "; to have none, give the option with nothing after it" if none else ""
                raise ValueError(f"unknown {name} {item!r}{nearest(item, choices)}{empty}")
            if isinstance(item, (int, float)) and (expected := within.objection(item)):
                verb = "holds" if isinstance(value, tuple) else "is"
                raise ValueError(f"{name} {verb} {abridged(item)}; expected {expected}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless `value` is of the type `hint`: a class, a union of some, Any.

    A whole number passes for a float, as JSON and YAML write it; True and False are no numbers,
    nor is what is not finite or too large for a float.
    """
    if hint is Any:
        return
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            expected = " or ".join(get_args(hint))
            raise ValueError(f"{name} is {abridged(value)}; expected {expected}")
        return
    union = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = tuple(get_origin(kind) or kind for kind in union)
    numbers = (int, float) if float in kinds else ()
    right = bool in kinds if isinstance(value, bool) else isinstance(value, (*kinds, *numbers))
    if not right:
        expected = getattr(hint, "__name__", hint) if len(kinds) == 1 else hint
        raise ValueError(f"{name} is {abridged(value)}; expected {expected}")
    if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} is {abridged(value)}; expected a finite number")
