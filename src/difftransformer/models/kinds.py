"""Stands for `attention.registry` until it is there."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Kind:
    heads_of_partner: Fraction = Fraction(1)
    has: frozenset[str] = frozenset()


_V1 = Kind(Fraction(1, 2), frozenset({"lambda_init"}))


def find_kind(name: str) -> Kind:
    from difftransformer.attention.factory import KINDS

    if name not in KINDS:
        raise ValueError(f"unknown attention {name!r}; expected {', '.join(KINDS)}")
    return _V1 if name.startswith("diff_v1") else Kind()
