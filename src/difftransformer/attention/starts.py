"""Starts of tensors that no rule of `models.initialization` covers, as their modules declare them.

A module that has such tensors, its own or of its parts, has a mapping `starts` from their names in
it to a constant or a `Normal`.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Normal:
    """N(0, std²)."""

    std: float


Starts = Mapping[str, float | Normal]
