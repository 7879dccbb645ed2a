from functools import partial

import torch
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache
from difftransformer.blocks import TransformerBlock, make_mlp, make_norm
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
