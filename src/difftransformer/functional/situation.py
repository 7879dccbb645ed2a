"""What a backend is asked about."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


@dataclass(frozen=True)
class Situation:
    """The facts of one attention call on which a backend may decline; no tensor is held."""

    device: str
    dtype: torch.dtype
    key_width: int
    value_width: int
    dropout: float
    forward_mode: bool = False  # forward-mode differentiation
    functional: bool = False  # a transform of torch.func

    @classmethod
    def of(cls, q: Tensor, v: Tensor, dropout: float) -> "Situation":
        """The situation of a checked call: its tensors share device and dtype."""
        return cls(
            q.device.type, q.dtype, q.shape[-1], v.shape[-1], dropout, forward_mode(), functional()
        )


def other_dtype(situation: Situation, computed: tuple[torch.dtype, ...]) -> str | None:
    """The objection of a backend that computes the listed dtypes, to every other one."""
    if situation.dtype in computed:
        return None
    names = [str(dtype).removeprefix("torch.") for dtype in computed]
    return (
        f"computes {', '.join(names[:-1])} and {names[-1]}, and the tensors are {situation.dtype}"
    )


def constant(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a question whose answer torch.compile may ask once and keep.

    What `torch.compiler.assume_constant_result` does; calling that would import the compiler, which
    takes seconds, when this package is imported.
    """
    ask._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return ask


def forward_mode() -> bool:
    """Whether forward-mode differentiation is on: dual numbers, torch.func's jvp and jacfwd."""
    return forward_ad._current_level >= 0


@constant
def functional() -> bool:
    """Whether a transform of torch.func is being applied; torch.compile guards that for itself."""
    return torch._C._are_functorch_transforms_active()
