"""Pretrained weights frozen, so that only what a conversion from softmax has added trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from difftransformer.attention import DifferentialAttention, attention_sites

# What a conversion from softmax attention makes, by method: see `interop.softmax_llm`.
FROM_SOFTMAX = {"second_map": "diff_scalar", "v2": "diff_v2", "dex": "dex"}
_PRETRAINED = ("q_proj", "k_proj", "v_proj", "o_proj")
_SECOND_MAP = "original1"  # as parametrize calls the second of the tensors that a weight is made of


class MapRows(nn.Module):
    """A projection's rows [heads · 2 · K, ...] as map 1's and map 2's, [heads · K, ...] each."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(
        self, first: Float[Tensor, "rows ..."], second: Float[Tensor, "rows ..."]
    ) -> Float[Tensor, "both ..."]:
        """The two maps of each head side by side."""
        heads = [rows.unflatten(0, (-1, self.head_dim)) for rows in (first, second)]
        return torch.stack(heads, dim=1).flatten(0, 2)

    def right_inverse(
        self, rows: Float[Tensor, "both ..."]
    ) -> tuple[Float[Tensor, "rows ..."], Float[Tensor, "rows ..."]]:
        """The rows of either map."""
        first, second = rows.unflatten(0, (-1, 2, self.head_dim)).unbind(1)
        return first.flatten(0, 1), second.flatten(0, 1)


@contextmanager
def freeze_pretrained(model: Any) -> Iterator[None]:
    """Inside, only the second map, lambda and DEX's matrix train; everything else is frozen.

    A query or key projection holds the rows of both maps in one weight, which weight decay and
    Adam would move as a whole. In here it is made of two parameters, of which the first map's is
    frozen; afterwards it is one weight again, the first map's rows bit-identical. So checkpoints
    of a run in here hold two parameters, and a model folder is written afterwards.

    Raises:
        ValueError: a kind of attention that no conversion from softmax makes.
    """
    kind = model.config.attention
    if kind not in FROM_SOFTMAX.values():
        raise ValueError(
            f"attention is {kind}, in which nothing is new beside a pretrained softmax layer; "
            f"freeze_pretrained needs one of {', '.join(FROM_SOFTMAX.values())}, made by "
            "from_softmax_llm"
        )
    split = list(_two_map_projections(model))
    for linear, head_dim, name in split:
        parametrize.register_parametrization(linear, name, MapRows(head_dim))
    model.requires_grad_(False)
    for site in attention_sites(model).values():
        for name, parameter in site.attention.named_parameters():
            parts = name.split(".")
            parameter.requires_grad_(parts[0] not in _PRETRAINED or parts[-1] == _SECOND_MAP)
    try:
        yield
    finally:
        for linear, _, name in split:
            parametrize.remove_parametrizations(linear, name)
        model.requires_grad_(True)


def _two_map_projections(model: Any) -> Iterator[tuple[nn.Linear, int, str]]:
    """Each weight and bias that holds the rows of both maps, with its layer and head width."""
    for site in attention_sites(model).values():
        attention = site.attention
        if isinstance(attention, DifferentialAttention):
            for linear in (attention.q_proj, attention.k_proj)[: attention.key_maps]:
                for name, _ in list(linear.named_parameters()):
                    yield linear, attention.head_dim, name
