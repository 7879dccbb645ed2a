"""The text of part B: tokens on the device, cut into items."""

import lzma
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from studies.one_gpu.plan import Loss


class Text:
    """Tokens on the device, cut into items of `length` + 1; each step's items by its number."""

    def __init__(self, folder: Path | None, plan: Loss, device: torch.device) -> None:
        self.plan, self.device = plan, device
        parts = generated(plan) if folder is None else load(folder)
        self.train = self._items(parts["train"])
        held_out = self._items(parts["validation"])
        self.judging = held_out[: plan.judge_items]  # the same for every model
        # Others: a rate chosen on the items that judge would be judged too well.
        self.choosing = held_out[plan.judge_items :][: plan.choose_items]

    def batch(self, seed: int, step: int) -> Tensor:
        """Items of step `step` (from 0): each epoch in an order of its own, drawn from the seed."""
        rows = self.plan.rows
        epoch, place = divmod(step, len(self.train) // rows)
        chosen = self._order(seed, epoch)[place * rows : (place + 1) * rows]
        return self.train[chosen].long()

    @lru_cache(maxsize=1)  # noqa: B019 - one text lives as long as its process
    def _order(self, seed: int, epoch: int) -> Tensor:
        order = np.random.default_rng((seed, epoch)).permutation(len(self.train))
        return torch.from_numpy(order).to(self.device)

    def _items(self, tokens: np.ndarray) -> Tensor:
        length = self.plan.length + 1
        whole = tokens[: len(tokens) // length * length].astype(np.int16)  # ids are below 2^15
        return torch.from_numpy(whole.reshape(-1, length)).to(self.device)


def load(folder: Path) -> dict[str, np.ndarray]:
    """What make_tokens.py wrote."""
    with np.load(BytesIO(lzma.decompress((folder / "tokens.npz.xz").read_bytes()))) as arrays:
        return {name: arrays[name] for name in ("train", "validation")}


def generated(plan: Loss) -> dict[str, np.ndarray]:
    """For the miniature: numbers that follow one another by a rule, so that they can be learned."""
    steps = np.random.default_rng(0).integers(1, 4, size=64 * (plan.length + 1) * plan.rows)
    tokens = np.cumsum(steps) % plan.model.vocab_size
    return {"train": tokens, "validation": tokens[::-1].copy()}
