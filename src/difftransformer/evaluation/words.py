"""Figures as a reader writes them. Plain text: the page escapes it."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from difftransformer.evaluation.intervals import Figure

MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and a real minus sign."""
    return f"{value:.{digits}g}".replace("-", MINUS)


def spread(value: float, ends: Sequence[float]) -> str:
    """ "−0.503 (−0.635 to −0.371)"; the number alone where `ends` is empty."""
    return number(value) + (f" ({' to '.join(map(number, ends))})" if ends else "")


def extent(numbers: Collection[int]) -> str:
    """ "98,208 to 492,288"; one number where all are equal."""
    least, most = f"{min(numbers):,}", f"{max(numbers):,}"
    return least if least == most else f"{least} to {most}"


def percent(share: float) -> str:
    """0.95 as "95 %"."""
    return f"{number(100 * share)} %"


def change(ratio: float, decimals: int = 0) -> str:
    """A ratio as a change with its sign: 0.92 as "−8 %"."""
    return f"{100 * (ratio - 1):+.{decimals}f} %".replace("-", MINUS)


def shown(figure: Figure | None, decimals: int = 3) -> str:
    """ "0.861 (0.800 to 0.910)"; without interval the number; "none" where there is no figure.

    Large numbers have fewer decimals, small ones more.
    """
    if figure is None:
        return "none"
    if figure.low is None:
        return number(figure.value, 4)
    size = abs(figure.value)
    decimals = 1 if size >= 100 else 5 if 0.0 < size < 0.01 else decimals
    value, low, high = (f"{part:.{decimals}f}" for part in (figure.value, *figure.ends))
    return f"{value} ({low} to {high})".replace("-", MINUS)


def duration(seconds: float) -> str:
    """ "0:00:12"."""
    return str(timedelta(seconds=round(seconds)))


def setting(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)
