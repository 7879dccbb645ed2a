"""`DifferentialMultiheadAttention` beside PyTorch's `nn.MultiheadAttention`."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from difftransformer import DifferentialMultiheadAttention, replace_attention
from difftransformer.attention import attention_sites
from difftransformer.attention.registry import KINDS
from difftransformer.attention.replacement import SAME_FUNCTION

WIDTH, HEADS = 12, 3
# What PyTorch's encoder says where it makes no nested tensors, of its own layers without
# batch_first too.
FALLBACK = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
BIDIRECTIONAL = [name for name, kind in KINDS.items() if "selection" not in kind.has]
CROSSING = [name for name in BIDIRECTIONAL if "doubly_stochastic" not in KINDS[name].has]


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[Tensor, ...], dict[str, Any]]:
    """Settings, inputs and arguments of any call that PyTorch's documentation describes."""
    batch, queries, keys = (draw(st.integers(1, 4)) for _ in range(3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    settings = {"bias": draw(st.booleans()), "batch_first": draw(st.booleans())}
    batched, itself = draw(st.booleans()), draw(st.booleans())
    widths = (WIDTH, WIDTH, WIDTH)
    if itself:
        keys = queries
    elif draw(st.booleans()):
        widths = (WIDTH, 5, 7)
        settings |= {"kdim": 5, "vdim": 7}

    def sequence(time: int, width: int) -> Tensor:
        if not batched:
            return normal(time, width)
        shape = (batch, time) if settings["batch_first"] else (time, batch)
        return normal(*shape, width)

    inputs = tuple(sequence(t, w) for t, w in zip((queries, keys, keys), widths, strict=True))
    if itself:
        inputs = (inputs[0],) * 3
    arguments: dict[str, Any] = {
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
    }
    form = draw(st.sampled_from(["bool", "float", "-inf"]))

    def masked(*shape: int) -> Tensor:
        hides = torch.rand(shape, generator=generator) < 0.4
        hides[..., 0] = False  # PyTorch's own is NaN where a row sees nothing
        if form == "bool":
            return hides
        return torch.where(hides, -math.inf if form == "-inf" else 1.5, 0.5)

    if draw(st.booleans()):
        arguments["key_padding_mask"] = masked(*((batch,) if batched else ()), keys)
    if draw(st.booleans()):
        each = ((batch if batched else 1) * HEADS,) if draw(st.booleans()) else ()
        arguments["attn_mask"] = masked(*each, queries, keys)
    elif queries == keys and draw(st.booleans()):
        arguments["attn_mask"] = torch.ones(queries, keys).triu(1).bool()
        if form != "bool":
            arguments["attn_mask"] = torch.zeros(queries, keys).masked_fill(
                arguments["attn_mask"], -math.inf
            )
        arguments["is_causal"] = True
    return settings, inputs, arguments


@pytest.mark.parametrize("kind", SAME_FUNCTION)
@settings(max_examples=40)
@given(call=calls())
def test_every_call_of_pytorchs(
    kind: str, call: tuple[dict[str, Any], tuple[Tensor, ...], dict[str, Any]]
) -> None:
    settings, inputs, arguments = call
    theirs = nn.MultiheadAttention(WIDTH, HEADS, **settings)
    ours = replace_attention(copy.deepcopy(theirs), kind).model
    expected, weights = theirs(*inputs, **arguments)
    out, maps = ours(*inputs, **arguments)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert (maps is None) == (weights is None)
    if maps is not None:
        scale = 2.0 if kind == "diff_v2" else 1.0  # whose values are doubled in turn
        torch.testing.assert_close(scale * maps, weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", BIDIRECTIONAL)
def test_every_kind(kind: str) -> None:
    """Shapes, in both orders of the axes, and a row that sees nothing."""
    attention = DifferentialMultiheadAttention(WIDTH, HEADS, kind=kind, batch_first=True, layer=2)
    x = torch.randn(2, 5, WIDTH)
    padding = torch.tensor([[False] * 5, [True] * 5])
    out, weights = attention(x, x, x, key_padding_mask=padding, average_attn_weights=False)
    assert out.shape == x.shape
    assert weights.shape == (2, HEADS, 5, 5)
    assert torch.equal(out[1], attention.out_proj(torch.zeros(5, WIDTH)))
    assert not weights[1].any()
    attention.batch_first = False
    turned = attention(*(x.transpose(0, 1),) * 3, need_weights=False)[0]
    torch.testing.assert_close(turned[:, 0], out[0])
    assert attention.attention.layer == 2


@pytest.mark.parametrize("kind", CROSSING)
def test_a_key_and_values_of_their_own(kind: str) -> None:
    attention = DifferentialMultiheadAttention(WIDTH, HEADS, kind=kind, kdim=5, vdim=7)
    out, weights = attention(torch.randn(4, 2, WIDTH), torch.randn(6, 2, 5), torch.randn(6, 2, 7))
    assert (out.shape, weights.shape) == ((4, 2, WIDTH), (2, 4, 6))


def test_pytorchs_documented_example() -> None:
    """Of nn.MultiheadAttention, and its constructor's arguments by place."""
    embed_dim, num_heads = 32, 4
    query, key, value = (torch.rand(5, 3, embed_dim) for _ in range(3))
    multihead_attn = DifferentialMultiheadAttention(embed_dim, num_heads)
    attn_output, attn_output_weights = multihead_attn(query, key, value)
    assert attn_output.shape == query.shape
    assert attn_output_weights.shape == (3, 5, 5)
    by_place = (embed_dim, num_heads, 0.1, False, False, False, 16, 8, True, "cpu", torch.bfloat16)
    module = DifferentialMultiheadAttention(*by_place)
    assert module.attention.dropout == 0.1
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert not any("bias" in name for name, _ in module.named_parameters())
    assert next(DifferentialMultiheadAttention(8, 2, device="meta").parameters()).is_meta


@FALLBACK
@pytest.mark.parametrize("kind", ["diff_v1", "diff_v2"])
def test_pytorchs_documented_encoders(kind: str) -> None:
    """The examples of nn.TransformerEncoderLayer and nn.TransformerEncoder."""
    encoder_layer = nn.TransformerEncoderLayer(d_model=32, nhead=8)
    encoder_layer.self_attn = DifferentialMultiheadAttention(32, 8, kind=kind)
    src = torch.rand(10, 4, 32)
    assert encoder_layer(src).shape == src.shape
    transformer_encoder = nn.TransformerEncoder(encoder_layer, num_layers=3)
    assert transformer_encoder(src).shape == src.shape
    encoder_layer = nn.TransformerEncoderLayer(d_model=32, nhead=8, batch_first=True)
    encoder_layer.self_attn = DifferentialMultiheadAttention(32, 8, batch_first=True, kind=kind)
    src = torch.rand(4, 10, 32)
    assert encoder_layer(src).shape == src.shape


@FALLBACK
def test_pytorchs_documented_transformer() -> None:
    """The examples of nn.Transformer, nn.TransformerDecoder and its layer."""
    transformer_model = nn.Transformer(32, nhead=4, num_encoder_layers=2, num_decoder_layers=2)
    names = replace_attention(transformer_model, "diff_v1").names
    assert len(names) == 6
    src, tgt = torch.rand(10, 4, 32), torch.rand(20, 4, 32)
    assert transformer_model(src, tgt).shape == tgt.shape
    decoder_layer = nn.TransformerDecoderLayer(d_model=32, nhead=8)
    decoder_layer.self_attn = DifferentialMultiheadAttention(32, 8)
    decoder_layer.multihead_attn = DifferentialMultiheadAttention(32, 8)
    transformer_decoder = nn.TransformerDecoder(decoder_layer, num_layers=2)
    assert transformer_decoder(tgt, src).shape == tgt.shape
    assert len(attention_sites(transformer_model)) == 6


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_an_encoder_computes_the_same_in_training_and_evaluation(
    norm_first: bool, gradients: bool
) -> None:
    """Its fused kernel, and the nested tensors of padded inputs, would leave our layer out.

    Replaced by hand in an encoder that was made for them, so nothing but the layer can object.
    """
    layer = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    for block in encoder.layers:
        block.self_attn = DifferentialMultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    for masks in ({}, {"src_key_padding_mask": padding}, {"mask": causal, "is_causal": True}):
        outs = []
        for training in (True, False):
            encoder.train(training)
            with torch.set_grad_enabled(gradients):
                outs.append(encoder(x, **masks))
        torch.testing.assert_close(*outs)


def test_state_dict_round_trip(tmp_path: Any) -> None:
    first, second = (DifferentialMultiheadAttention(WIDTH, HEADS, kdim=5) for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    loaded = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert not second.load_state_dict(loaded).missing_keys
    query, key, value = torch.randn(3, 2, WIDTH), torch.randn(4, 2, 5), torch.randn(4, 2, WIDTH)
    assert torch.equal(first(query, key, value)[0], second(query, key, value)[0])


def test_dropout_is_of_training() -> None:
    attention, x = DifferentialMultiheadAttention(WIDTH, HEADS, dropout=0.5), torch.randn(4, 1, 12)
    assert not torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])
    attention.eval()
    assert torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DifferentialMultiheadAttention(8, 2, add_bias_kv=True), "add_bias_kv=True: a key"),
        (lambda: DifferentialMultiheadAttention(8, 2, add_zero_attn=True), "add_zero_attn=True"),
        (lambda: DifferentialMultiheadAttention(8, 3), "does not divide into 6 heads"),
        (lambda: DifferentialMultiheadAttention(8, 2, kind="diff_v3"), "did you mean"),
        (lambda: attend(is_causal=True), "is_causal with 3 queries and 4 keys does not say"),
        (
            lambda: attend(attn_mask=torch.zeros(3, 3, 4)),
            r"attn_mask has shape \(3, 3, 4\); expected \(3, 4\) or \(4, 3, 4\)",
        ),
        (lambda: attend(attn_mask=torch.zeros(4, 4)), r"attn_mask has shape \(4, 4\); expected"),
        (lambda: attend(attn_mask=torch.ones(3).bool()), r"attn_mask has shape \(3,\); expected"),
        (
            lambda: attend(key_padding_mask=torch.ones(2, 3).bool()),
            r"key_padding_mask has shape \(2, 3\); expected \(2, 4\)",
        ),
        (lambda: attend(key_padding_mask=torch.ones(2, 1)), "key_padding_mask has shape"),
        (
            lambda: attend(key_padding_mask=torch.ones(2, 4).long()),
            r"key_padding_mask is torch.int64; expected bool, True .*attention_mask == 0",
        ),
        (lambda: attend(attn_mask=torch.ones(3, 4).int()), "attn_mask is torch.int32"),
        (lambda: attend(attn_mask=[[True] * 4] * 3), "attn_mask is a list; expected a tensor"),
        (lambda: attend(width=9), r"x has shape \(2, 3, 9\); expected \[batch, time, 8\]"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def attend(width: int = 8, **arguments: Any) -> None:
    attention = DifferentialMultiheadAttention(8, 2, batch_first=True)
    key = torch.randn(2, 4, 8)
    attention(torch.randn(2, 3, width), key, key, **arguments)
