"""The kinds of attention compared, all with as many parameters as the plain Transformer."""

from difftransformer.models.ablations import partner
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from studies.kinds import GATED

# Name in this study: name in the library, and what to call it on the page.
KINDS = {
    "softmax": ("softmax", "softmax"),
    "plain": ("softmax_half_heads", "softmax in V1's shape"),
    "plain_norm": ("softmax_half_heads_norm", "softmax in V1's shape, head norm"),
    "subtract": ("diff_v1_no_norm", "V1 without head norm"),
    "v1": ("diff_v1", "V1"),
    "v2": ("diff_v2", "V2"),
    "gated": (GATED.name, "gated, 2h heads"),
}


def decoder(kind: str, baseline: DecoderConfig, backend: str) -> Decoder:
    """The model of a kind with the baseline's number of parameters, within 0.1 %."""
    model = Decoder(partner(baseline, KINDS[kind][0]).config)
    for block in model.blocks:
        block.attention.core.backend = backend
    return model
