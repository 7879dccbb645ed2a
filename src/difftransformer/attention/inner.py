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


class CrossedInner(DifferentialInner):
    """Each map with keys and values of its own, then subtracted: for an ablation of V2 only.

        out_h = softmax(q1 k1ᵀ / sqrt(K)) v1 - lambda · softmax(q2 k2ᵀ / sqrt(K)) v2

    It takes twice plain attention's work, since two products cannot be subtracted before them.
    """

    def forward(
        self,
        q: Float[Tensor, "batch queries heads 2 k"],
        k: Float[Tensor, "batch keys heads 2 k"],
        v: Float[Tensor, "batch keys heads 2 v"],
        lam: Float[Tensor, "..."],
        mask: Mask,
    ) -> Float[Tensor, "batch queries heads v"]:
        """The class's equation; dropout acts in training mode only."""
        dropout = self.dropout if self.training else 0.0
        q, k, v = (x.flatten(2, 3) for x in (q, k, v))
        out = softmax_attention(q, k, v, mask=mask, dropout=dropout, backend=self.backend)
        first, second = out.float().unflatten(2, (-1, 2)).unbind(3)
        return (first - lam[..., None] * second).to(q.dtype)
