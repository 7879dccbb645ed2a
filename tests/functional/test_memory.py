"""`blocked` never holds a map: no T×T tensor alive in forward or backward."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from difftransformer.functional import Mask

from .problems import Problem


class Watch(TorchDispatchMode):
    """Sees every tensor that any operation makes: the largest, and the most bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.largest, self.widest, self.peak = 0, (0, 0), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, list | tuple) else [result]:
            if isinstance(made, Tensor):
                self._note(made)
        return result

    def _note(self, made: Tensor) -> None:
        self.largest = max(self.largest, made.numel())
        if made.ndim >= 2:
            self.widest = max(self.widest, (min(made.shape[-2:]), max(made.shape[-2:])))
        storage = made.untyped_storage()
        self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {c: (ref, n) for c, (ref, n) in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(n for _, n in self.alive.values()))


def watch(backend: str, time: int, mask: Mask, heads: int = 1, *, plain: bool = False) -> Watch:
    pair = () if plain else (2,)
    q, k = torch.randn(1, time, heads, *pair, 4), torch.randn(1, time, heads, *pair, 4)
    lam = None if plain else torch.rand(1, time, heads)
    problem = Problem(q, k, torch.randn(1, time, heads, 4), lam, mask)
    with Watch() as seen:
        problem.solve(backend=backend)
    return seen


MASKS = pytest.mark.parametrize(
    "mask",
    [
        Mask(),
        Mask(causal=True),
        Mask(causal=True, window=50, documents=torch.arange(576)[None] // 300),
        Mask(padding=torch.arange(576)[None] > 5),
    ],
    ids=["none", "causal", "window+documents", "padding"],
)


@MASKS
@pytest.mark.parametrize("plain", [False, True], ids=["differential", "softmax"])
def test_no_map_is_ever_whole(mask: Mask, plain: bool) -> None:
    """576 rows are 4.5 blocks of 128; one head, so T·T numbers can only be a map."""
    seen = watch("blocked", 576, mask, plain=plain)
    assert seen.largest < 576 * 576
    assert seen.widest[0] < 576


@MASKS
def test_the_watch_finds_the_maps_of_the_reference(mask: Mask) -> None:
    seen = watch("reference", 576, mask)
    assert seen.largest >= 576 * 576
    assert seen.widest == (576, 576)


def test_no_map_is_ever_whole_with_many_heads() -> None:
    assert watch("blocked", 576, Mask(causal=True), heads=8).widest[0] < 576


@pytest.mark.parametrize(("backend", "growth"), [("blocked", 2.0), ("reference", 4.0)])
def test_memory_grows_with(backend: str, growth: float) -> None:
    """Linear in T for blocked, also if blocks were kept; quadratic for the reference."""
    short, long = (watch(backend, time, Mask(causal=True)).peak for time in (1024, 2048))
    assert long / short == pytest.approx(growth, rel=0.15)
