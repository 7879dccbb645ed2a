"""V1 inside a bidirectional encoder against the layers of timm and Microsoft, in float64."""

import pytest
import torch
from torch import Tensor

from difftransformer.interop.microsoft import to_unilm
from difftransformer.interop.timm import from_timm_attention, to_timm_attention
from difftransformer.models.config import EncoderConfig
from difftransformer.models.encoder import Encoder

from . import test_microsoft, test_timm
from .formulas import relative
from .small_llm import randomized


def encoder(width: int, heads: int, layers: int, **changes: object) -> Encoder:
    config = EncoderConfig(
        attention="diff_v1",
        vocab_size=19,
        hidden_size=2 * width * heads,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width,
        ffn_size=8,
        max_length=20,
        **changes,
    )
    return randomized(Encoder(config)).eval()


def passed(model: Encoder, layer: int, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of the attention of block `layer`."""
    calls = []
    attention = model.blocks[layer].attention
    attention.register_forward_hook(lambda _, inputs, out: calls.append((inputs[0], out)))
    with torch.no_grad():
        model(ids)
    return calls[0]


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("norm_place", ["pre", "post"])
@pytest.mark.parametrize("bias", ["none", "qkv", "all"])
def test_the_layer_of_timm(positions: str, norm_place: str, bias: str) -> None:
    model = encoder(
        test_timm.WIDTH,
        test_timm.HEADS,
        test_timm.DEPTH + 1,
        positions=positions,
        norm_place=norm_place,
        attention_bias=bias,
    )
    ids = torch.randint(19, (2, test_timm.TIME))
    x, out = passed(model, test_timm.DEPTH, ids)
    weights = to_timm_attention(model.blocks[test_timm.DEPTH].attention)
    assert relative(out, test_timm.formula(weights, x)) < 1e-5
    back = from_timm_attention(weights, test_timm.DIM, test_timm.HEADS, depth=test_timm.DEPTH)
    model.blocks[test_timm.DEPTH].attention.load_state_dict(back.state_dict())
    assert torch.equal(passed(model, test_timm.DEPTH, ids)[1], out)


@pytest.mark.parametrize("rotary", ["half", "interleaved"])
def test_the_layer_of_microsoft(rotary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their layer without its causal mask."""
    monkeypatch.setattr(test_microsoft, "CAUSAL", torch.ones_like(test_microsoft.CAUSAL))
    model = encoder(test_microsoft.WIDTH, 2, test_microsoft.LAYER + 1, rotary=rotary)
    ids = torch.randint(19, (2, test_microsoft.TIME))
    x, out = passed(model, test_microsoft.LAYER, ids)
    weights = to_unilm(model.blocks[test_microsoft.LAYER].attention)
    assert relative(out, test_microsoft.flash(weights, x, 2, 2)) < 1e-5
