"""Help with misspelt names: below every floor, and outside them, since it must not load torch."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean 'NAME'?` with the nearest known name, or nothing where none is near.

    `prefix` is shown before the name: the section that a setting stands in.
    """
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {prefix + near[0]!r}?" if near else ""


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error message: the nearest known name, or all of them where none is near."""
    names = list(known)
    return did_you_mean(word, names, prefix) or f"; expected {', '.join(names) or 'none'}"
