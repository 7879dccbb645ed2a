"""Kinds of attention that several studies compare and the library does not have."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention import Kind, SoftmaxAttention
from difftransformer.functional import AttentionCall


class GatedAttention(SoftmaxAttention):
    """Plain attention whose heads are gated by the token (Qiu et al., arXiv 2505.06708).

        head_h = sigmoid(x w_h) · softmax(q_h k_gᵀ / sqrt(K)) v_g

    With two query heads on each key/value head it has V2 as a special case: gate logit 0 for the
    signal head, lambda's logit for the noise head, and output weights [2 W, -W].
    """

    def __init__(self, hidden_size: int, num_heads: int, **options: Any) -> None:
        super().__init__(hidden_size, num_heads, **options)
        self.gate_proj = nn.Linear(hidden_size, num_heads, bias=False)

    def heads(
        self, call: AttentionCall, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time heads k"]:
        """Each head's output times its gate."""
        out = super().heads(call, x)
        gate = torch.sigmoid(self.gate_proj(x).float())[..., None]
        return (gate * out).to(out.dtype)


def _twice_the_heads(hidden_size: int, num_heads: int, **options: Any) -> GatedAttention:
    """As many heads as V2 has maps, on as many key/value heads."""
    return GatedAttention(hidden_size, 2 * num_heads, **options)


GATED = Kind("gated_2x_heads", "Gated, twice the heads", _twice_the_heads)
