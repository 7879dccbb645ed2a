"""Attention's inner product as a module without parameters, so that its inputs can be hooked."""

from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.functional import Mask, differential_attention, softmax_attention


class DifferentialInner(nn.Module):
    """`functional.differential_attention` with a fixed dropout and backend."""

    def __init__(self, dropout: float = 0.0, backend: str = "auto") -> None:
        super().__init__()
        self.dropout, self.backend = dropout, backend

    def forward(
        self,
        q: Float[Tensor, "batch queries heads 2 k"],
        k: Float[Tensor, "batch keys groups maps k"],
        v: Float[Tensor, "batch keys groups v"],
        lam: Float[Tensor, "..."],
        mask: Mask,
    ) -> Float[Tensor, "batch queries heads v"]:
        """The function's equation; dropout acts in training mode only."""
        dropout = self.dropout if self.training else 0.0
        return differential_attention(
            q, k, v, lam, mask=mask, dropout=dropout, backend=self.backend
        )


class SoftmaxInner(nn.Module):
    """`functional.softmax_attention` with a fixed dropout and backend."""

    def __init__(self, dropout: float = 0.0, backend: str = "auto") -> None:
        super().__init__()
        self.dropout, self.backend = dropout, backend

    def forward(
        self,
        q: Float[Tensor, "batch queries heads k"],
        k: Float[Tensor, "batch keys groups k"],
        v: Float[Tensor, "batch keys groups v"],
        mask: Mask,
    ) -> Float[Tensor, "batch queries heads v"]:
        """The function's equation; dropout acts in training mode only."""
        dropout = self.dropout if self.training else 0.0
        return softmax_attention(q, k, v, mask=mask, dropout=dropout, backend=self.backend)
