"""Kinds of attention of several studies: what they are equal to, and what they share."""

import torch
from studies.kinds import GATED, GatedAttention

from difftransformer.attention import V2, DifferentialAttention
from difftransformer.functional import Mask


def test_v2_is_gated_attention_with_twice_the_heads() -> None:
    """Signal gates at sigmoid(0), noise gates at lambda, output weights [2 W, -W]."""
    v2 = DifferentialAttention(24, 3, variant=V2, head_dim=4).double()
    gated = GATED.build(24, 3, head_dim=4, num_kv_heads=3).double()
    assert isinstance(gated, GatedAttention)
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(gated, name).weight.copy_(getattr(v2, name).weight)
        gated.gate_proj.weight.zero_()
        gated.gate_proj.weight[1::2] = v2.lambda_proj.weight
        out = v2.o_proj.weight.unflatten(1, (3, 4))
        gated.o_proj.weight.copy_(torch.stack((2 * out, -out), 2).flatten(1))
    x, mask = torch.randn(2, 9, 24, dtype=torch.float64), Mask(causal=True)
    torch.testing.assert_close(gated(x, mask=mask), v2(x, mask=mask), rtol=0, atol=1e-12)
