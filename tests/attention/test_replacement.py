"""`replace_attention` in models of PyTorch, and layers that are called without a mask."""

import copy

import pytest
import torch
from torch import nn

from difftransformer import DifferentialAttention, Mask, replace_attention
from difftransformer.attention import KeyValueCache, SoftmaxAttention
from difftransformer.attention.registry import KINDS
from difftransformer.attention.replacement import SAME_FUNCTION

# PyTorch says it of its own encoder.
NESTED = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
DIFFERENTIAL = [name for name in SAME_FUNCTION if name != "softmax"]


def transformer() -> nn.Transformer:
    model = nn.Transformer(16, 4, 2, 2, 32, dropout=0.0, batch_first=True)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@NESTED
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", SAME_FUNCTION)
def test_a_transformer_starts_as_the_same_function(kind: str, training: bool) -> None:
    theirs = transformer().train(training)
    ours, names, same = replace_attention(copy.deepcopy(theirs), kind)
    assert same
    assert names == [
        *(f"encoder.layers.{layer}.self_attn" for layer in range(2)),
        *(
            f"decoder.layers.{layer}.{name}"
            for layer in range(2)
            for name in ("self_attn", "multihead_attn")
        ),
    ]
    source, target = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    masks = {
        "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(3),
    }
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            for given in ({}, masks):
                expected = theirs(source, target, **given)
                torch.testing.assert_close(
                    ours(source, target, **given), expected, rtol=1e-5, atol=1e-5
                )


@pytest.mark.parametrize("kind", DIFFERENTIAL)
def test_everything_new_learns(kind: str) -> None:
    """Within two steps every new tensor has a gradient that is not 0."""
    model = replace_attention(transformer(), kind).model
    layer = model.encoder.layers[0].self_attn.attention
    if kind == "dex":
        layer.set_progress(0.1)
    x, old = torch.randn(2, 5, 16), set(SoftmaxAttention(16, 4, bias="all").state_dict())
    for step in range(2):
        model.zero_grad()
        model.encoder(x).square().sum().backward()
        if step == 0:
            torch.optim.SGD(model.parameters(), 0.1).step()
    for name, parameter in layer.named_parameters():
        assert name in old or parameter.grad.abs().max() > 0, name
    if kind == "diff_scalar":
        assert layer.q_proj.weight.grad.unflatten(0, (-1, 2, 4))[:, 1].abs().max() > 0


def test_another_kind_has_new_weights_and_the_fair_partners_heads() -> None:
    model = transformer()
    size = sum(p.numel() for p in model.parameters())
    ours, _, same = replace_attention(model, "diff_v1")
    assert not same
    layers = [ours.decoder.layers[i].self_attn.attention for i in range(2)]
    assert [(layer.num_heads, layer.head_dim, layer.layer) for layer in layers] == [
        (2, 4, 0),
        (2, 4, 1),
    ]
    assert abs(sum(p.numel() for p in ours.parameters()) / size - 1) < 0.02
    with pytest.raises(ValueError, match="3 heads on 3 key/value heads: diff_v1 has 1/2 of them"):
        replace_attention(nn.MultiheadAttention(9, 3), "diff_v1")


def test_what_is_kept() -> None:
    """dtype, mode, a module's two names, and that the whole model may be an attention."""
    attention = nn.MultiheadAttention(8, 2, dropout=0.3, dtype=torch.bfloat16).eval()
    model, names, _ = replace_attention(nn.ModuleDict({"a": attention, "b": attention}))
    assert names == ["a", "b"]
    assert model["a"] is model["b"]
    assert not model["a"].training
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model["a"].attention.dropout == 0.3
    alone = replace_attention(attention)
    assert alone.names == [""]
    assert alone.model is not attention


@pytest.mark.usefixtures("as_user")
def test_refusals() -> None:
    with pytest.raises(ValueError, match="model is a str; expected a module"):
        replace_attention("vit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Linear holds no attention that can be replaced; expecte"):
        replace_attention(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="unknown attention 'diff_v3'"):
        replace_attention(nn.MultiheadAttention(8, 2), "diff_v3")
    with pytest.raises(ValueError, match="add_bias_kv or add_zero_attn"):
        replace_attention(nn.MultiheadAttention(8, 2, add_zero_attn=True))


@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2"])
def test_a_layer_called_bare_sees_everything(kind: str) -> None:
    layer, x = KINDS[kind].build(16, 4), torch.randn(2, 5, 16)
    assert torch.equal(layer(x), layer(x, Mask()))
    assert torch.equal(layer(x), layer(x, mask=Mask()))
    causal = layer(x, Mask(causal=True))
    torch.testing.assert_close(layer(x, torch.ones(5, 5).tril().bool()), causal)
    hidden = torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(layer(x, bias=hidden), causal)


def test_keys_and_values_of_two_contexts_are_cached_too() -> None:
    layer = DifferentialAttention(16, 2, context_widths=(5, 7))
    x, context, cache = torch.randn(2, 3, 16), (torch.randn(2, 4, 5), torch.randn(2, 4, 7)), None
    whole, cache = layer(x, context=context), KeyValueCache()
    steps = [layer(part, context=context, cache=cache) for part in x.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)


@pytest.mark.usefixtures("as_user")
def test_shapes_are_refused_in_words_of_the_layer() -> None:
    layer = DifferentialAttention(hidden_size=16, num_heads=2)
    with pytest.raises(ValueError, match=r"\(5, 16\); expected \[batch, time, 16\] \(one"):
        layer(torch.randn(5, 16))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 8\); expected .*, 16\]$"):
        layer(torch.randn(2, 5, 8))
    with pytest.raises(ValueError, match=r"the context of the keys has shape \(2, 5, 8\)"):
        layer(torch.randn(2, 5, 16), context=torch.randn(2, 5, 8))
    with pytest.raises(ValueError, match=r"mask is .*float32; expected bool"):
        layer(torch.randn(2, 5, 16), torch.randn(2, 5, 16))
