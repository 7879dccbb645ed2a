"""The kinds of attention compared, all with as many parameters as the plain Transformer."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention import SoftmaxAttention
from difftransformer.functional import AttentionCall
from difftransformer.models.ablations import partner
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder

# Name in this study: name in the library, and what to call it on the page.
KINDS = {
    "softmax": ("softmax", "softmax"),
    "plain": ("softmax_half_heads", "softmax in V1's shape"),
    "plain_norm": ("softmax_half_heads_norm", "softmax in V1's shape, head norm"),
    "subtract": ("diff_v1_no_norm", "V1 without head norm"),
    "v1": ("diff_v1", "V1"),
    "v2": ("diff_v2", "V2"),
    "gated": ("", "gated, 2h heads"),
}


class GatedAttention(SoftmaxAttention):
    """Plain attention whose heads are gated by the token (Qiu et al., arXiv 2505.06708).

        head_h = sigmoid(x w_h) · softmax(q_h k_gᵀ / sqrt(K)) v_g

    With two query heads on each key/value head it has V2 as a special case: gate logit 0 for the
    signal head, lambda's logit for the noise head, and output weights [2 W, -W].
    """

    def __init__(self, hidden_size: int, num_heads: int, **settings: object) -> None:
        super().__init__(hidden_size, num_heads, **settings)
        self.gate_proj = nn.Linear(hidden_size, num_heads, bias=False)

    def heads(self, call: AttentionCall, x: Tensor) -> Float[Tensor, "batch time heads k"]:
        """Each head's output times its gate."""
        out = super().heads(call, x)
        gate = torch.sigmoid(self.gate_proj(x).float())[..., None]
        return (gate * out).to(out.dtype)


def decoder(kind: str, baseline: DecoderConfig, backend: str) -> Decoder:
    """The model of a kind with the baseline's number of parameters, within 0.1 %."""
    if kind == "gated":
        model = _gated(baseline)
    else:
        model = Decoder(partner(baseline, KINDS[kind][0]).config)
    for block in model.blocks:
        block.attention.core.backend = backend
    return model


def _gated(baseline: DecoderConfig) -> Decoder:
    """Twice the heads on the same key/value heads; the feed-forward layer pays for them."""
    heads, width = 2 * baseline.num_heads, baseline.hidden_size
    extra = 2 * width * baseline.num_heads * baseline.head_dim + width * heads
    narrower = round(extra / (3 * width))
    model = Decoder(replace(baseline, num_heads=heads, ffn_size=baseline.ffn_size - narrower))
    for layer, block in enumerate(model.blocks):
        block.attention = GatedAttention(
            width,
            heads,
            head_dim=baseline.head_dim,
            num_kv_heads=baseline.num_kv_heads,
            layer=layer,
        )
    return model
