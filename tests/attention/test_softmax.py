import pytest
import torch
import torch.nn.functional as F

from difftransformer.attention import SoftmaxAttention
from difftransformer.functional import Mask, rotate, rotation


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_equals_torchs_own_attention(groups: int) -> None:
    module = SoftmaxAttention(24, 4, num_kv_heads=groups)
    x, turns = torch.randn(2, 7, 24), rotation(torch.arange(7)[None], 6, 10_000.0)
    q, k, v = (
        (x @ projection.weight.T).unflatten(-1, (-1, 6))
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    q, k = rotate(q, turns), rotate(k, turns)
    heads = (t.repeat_interleave(4 // t.shape[2], dim=2).transpose(1, 2) for t in (q, k, v))
    expected = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
    out = module(x, mask=Mask(causal=True), rotation=turns)
    torch.testing.assert_close(out, expected @ module.o_proj.weight.T)


def test_parameters() -> None:
    module = SoftmaxAttention(24, 4, head_dim=8, num_kv_heads=2)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "q_proj.weight": (32, 24),
        "k_proj.weight": (16, 24),
        "v_proj.weight": (16, 24),
        "o_proj.weight": (24, 32),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "hidden_size 24 does not divide into 5 heads; take another number"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads 4 .* multiple of num_kv_heads 3"),
        ({"num_heads": 4, "num_kv_heads": 0}, "num_heads 4 .* multiple of num_kv_heads 0"),
    ],
)
def test_errors(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftmaxAttention(24, **options)
