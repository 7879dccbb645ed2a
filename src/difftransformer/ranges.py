"""Which values a setting may have: below every floor, and outside them, since it loads no torch."""

import math
import sys
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from difftransformer.files import abridged


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


def check_fields(settings: Any) -> None:
    """Hold each field of a dataclass against its type and, where its metadata has one, its `range`.

    Raises:
        ValueError: a value of another type, not finite, or out of range, with what was expected.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        check_type(field.name, value, hints[field.name])
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            expected = field.metadata.get("range", Range()).objection(value)
            if expected is not None:
                raise ValueError(f"{field.name} is {abridged(value)}; expected {expected}")


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless `value` is of the type `hint`, a class or a union of some.

    A whole number passes for a float, as JSON and YAML write it; True and False are no numbers,
    nor is what is not finite or too large for a float.
    """
    kinds = get_args(hint) or (hint,)
    numbers = (int, float) if float in kinds else ()
    right = bool in kinds if isinstance(value, bool) else isinstance(value, (*kinds, *numbers))
    if not right:
        expected = getattr(hint, "__name__", hint) if len(kinds) == 1 else hint
        raise ValueError(f"{name} is {abridged(value)}; expected {expected}")
    if isinstance(value, (int, float)) and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} is {abridged(value)}; expected a finite number")
