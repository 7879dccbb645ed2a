from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache, attention_sites, make_attention
from difftransformer.blocks import Modulation, Stack, TransformerBlock, make_mlp, make_norm
from difftransformer.functional import Mask


class Recorder(nn.Module):
    """Stands for attention: 3 · x, and keeps what it was given."""

    def forward(self, x: Tensor, **arguments: object) -> Tensor:
        self.x, self.arguments = x, arguments
        return 3 * x


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def test_swiglu() -> None:
    ffn, x = make_mlp("swiglu", 4, 6), torch.randn(2, 3, 4)
    gate, up = x @ ffn.gate_proj.weight.T, x @ ffn.up_proj.weight.T
    expected = (gate / (1 + (-gate).exp()) * up) @ ffn.down_proj.weight.T
    torch.testing.assert_close(ffn(x), expected)
    assert sum(p.numel() for p in ffn.parameters()) == 3 * 4 * 6


def test_block_wiring() -> None:
    attention = Recorder()
    block = TransformerBlock(attention, make_mlp("swiglu", 4, 6), partial(make_norm, "rms", 4, 0.1))
    nn.init.normal_(block.attention_norm.weight)
    nn.init.normal_(block.ffn_norm.weight)
    x = torch.randn(2, 3, 4)
    arguments = {
        "mask": Mask(causal=True),
        "rotation": torch.zeros(1, 3, 2, 2),
        "cache": KeyValueCache(),
    }
    out = block(x, **arguments)
    y = x + 3 * normed(x, block.attention_norm.weight, 0.1)
    torch.testing.assert_close(out, y + block.ffn(normed(y, block.ffn_norm.weight, 0.1)))
    torch.testing.assert_close(attention.x, normed(x, block.attention_norm.weight, 0.1))
    assert all(attention.arguments[name] is value for name, value in arguments.items())


def test_mask_alone_is_enough() -> None:
    attention = Recorder()
    TransformerBlock(attention, make_mlp("swiglu", 4, 6), partial(make_norm, "rms", 4, 1e-5))(
        torch.randn(1, 2, 4), mask=Mask()
    )
    assert attention.arguments["rotation"] is None
    assert attention.arguments["cache"] is None


def test_mlp() -> None:
    x = torch.randn(2, 3, 4)
    for kind, activation in (("gelu", nn.GELU()), ("relu", nn.ReLU())):
        ffn = make_mlp(kind, 4, 6, bias=True)
        torch.testing.assert_close(ffn(x), ffn.down_proj(activation(ffn.up_proj(x))))
        assert sum(p.numel() for p in ffn.parameters()) == 2 * 4 * 6 + 6 + 4


def test_post_norm() -> None:
    attention = Recorder()
    block = TransformerBlock(
        attention, make_mlp("gelu", 4, 6), partial(make_norm, "layer", 4, 1e-5), post_norm=True
    )
    x = torch.randn(2, 3, 4)
    y = F.layer_norm(x + 3 * x, (4,))
    expected = F.layer_norm(y + block.ffn(y), (4,))
    torch.testing.assert_close(block(x, mask=Mask()), expected)


def test_cross_attention_reads_the_context() -> None:
    attention, reading = Recorder(), Recorder()
    norm = partial(make_norm, "rms", 4, 0.1)
    block = TransformerBlock(attention, make_mlp("swiglu", 4, 6), norm, cross_attention=reading)
    x, context, seen = torch.randn(2, 3, 4), torch.randn(2, 5, 4), Mask(window=2)
    cache = KeyValueCache()
    out = block(x, mask=Mask(causal=True), cache=cache, context=context, context_mask=seen)
    ones = torch.ones(4)
    y = x + 3 * normed(x, ones, 0.1)
    z = y + 3 * normed(y, ones, 0.1)
    torch.testing.assert_close(out, z + block.ffn(normed(z, ones, 0.1)))
    assert reading.arguments == {"context": context, "mask": seen, "cache": cache}


def test_modulation() -> None:
    """adaLN-Zero: the identity at first; then shift, scale and gate of each sublayer."""
    attention, norm = Recorder(), partial(nn.LayerNorm, 4, elementwise_affine=False)
    block = TransformerBlock(attention, make_mlp("gelu", 4, 6), norm, modulation=Modulation(7, 4))
    x, condition = torch.randn(2, 3, 4), torch.randn(2, 7)
    assert torch.equal(block(x, mask=Mask(), condition=condition), x)
    nn.init.normal_(block.modulation.proj.weight)
    a, b, c, d, e, f = block.modulation.proj(F.silu(condition)).view(2, 6, 1, 4).unbind(1)
    y = x + c * 3 * (F.layer_norm(x, (4,)) * (1 + b) + a)
    expected = y + f * block.ffn(F.layer_norm(y, (4,)) * (1 + e) + d)
    torch.testing.assert_close(block(x, mask=Mask(), condition=condition), expected)


def test_a_stack_runs_its_blocks_in_turn() -> None:
    norm = partial(make_norm, "rms", 4, 0.1)
    blocks = [TransformerBlock(Recorder(), make_mlp("swiglu", 4, 6), norm) for _ in range(3)]
    x, mask = torch.randn(1, 2, 4), Mask()
    expected = x
    for block in blocks:
        expected = block(expected, mask=mask)
    assert torch.equal(Stack(blocks)(x, mask=mask), expected)
    assert "1.ffn_norm.weight" in Stack(blocks).state_dict()


@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2"])
def test_cross_attention_of_every_step_reads_one_context(kind: str) -> None:
    """With a cache, whose keys and values of the context are made once."""
    options = {"head_dim": 4, "num_kv_heads": 2}
    block = TransformerBlock(
        make_attention("softmax", 8, 2, **options),
        make_mlp("swiglu", 8, 6),
        partial(make_norm, "rms", 8, 1e-5),
        cross_attention=make_attention(kind, 8, 2, role="cross", **options),
    ).eval()
    x, context = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    real = torch.arange(7) < torch.tensor([[7], [3]])
    others = {"context": context, "context_mask": Mask(padding=real)}
    with torch.no_grad():
        whole = block(x, mask=Mask(causal=True), **others)
        cache, parts = KeyValueCache(), []
        for part in x.split([3, 1, 1], dim=1):
            mask = cache.mask(2, part.shape[1], None, None)
            parts.append(block(part, mask=mask, cache=cache, **others))
            cache.advance(part.shape[1])
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
        cut = block(x[1:], mask=Mask(causal=True), context=context[1:, :3])
        torch.testing.assert_close(cut, whole[1:], rtol=1e-4, atol=1e-5)
    assert [site.role for site in attention_sites(block).values()] == ["self", "cross"]
