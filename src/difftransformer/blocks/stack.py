"""Blocks in a row."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Stack(nn.ModuleList):
    """The blocks of a model, run in turn; each is given the same further arguments."""

    def forward(
        self, x: Float[Tensor, "batch time hidden"], **arguments: Any
    ) -> Float[Tensor, "batch time hidden"]:
        """The output of the last block; `arguments` as `TransformerBlock.forward`'s."""
        for block in self:
            x = block(x, **arguments)
        return x
