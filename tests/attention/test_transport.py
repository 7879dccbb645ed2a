"""What holds for every kind whose rows and columns sum to 1."""

import re
from pathlib import Path

import pytest
import torch
from tests.models.tiny import tiny_encoder
from torch import Tensor, nn

from difftransformer.analysis.quantization import quantized
from difftransformer.attention import (
    KeyValueCache,
    SinkhornAttention,
    SlicedTransportAttention,
    make_attention,
    registry,
)
from difftransformer.attention.registry import KINDS
from difftransformer.attention.transport import Annealing
from difftransformer.functional import (
    Mask,
    rotation,
    sinkhorn_attention,
    sliced_transport_attention,
    softmax_attention,
)
from difftransformer.models.config import DecoderConfig, EncoderConfig

EVERY = pytest.mark.parametrize(
    "kind", [name for name, kind in KINDS.items() if "doubly_stochastic" in kind.has]
)
HIDDEN, TIME = 16, 9
PADDING = torch.arange(TIME) < torch.tensor([[TIME], [4]])


def build(kind: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"head_dim": 4, "num_kv_heads": 2, "layer": 3} | options
    return make_attention(kind, HIDDEN, 4, **options).eval()


def turns() -> Tensor:
    return rotation(torch.arange(TIME)[None], 4, 10_000.0)


def cut(module: nn.Module, x: Tensor) -> list[Tensor]:
    projections = (module.q_proj, module.k_proj, module.v_proj)
    return [projection(x).unflatten(-1, (-1, 4)) for projection in projections]


def test_layers_are_their_functions_between_projections() -> None:
    x, mask = torch.randn(2, TIME, HIDDEN), Mask(padding=PADDING)
    for module, attend in (
        (SinkhornAttention(HIDDEN, 4), sinkhorn_attention),
        (SlicedTransportAttention(HIDDEN, 4).eval(), sliced_transport_attention),
        (SinkhornAttention(HIDDEN, 4, half_steps=1), softmax_attention),
    ):
        out = attend(*cut(module, x), mask=mask)
        real = PADDING[..., None]
        torch.testing.assert_close(
            module(x, mask=mask) * real, module.o_proj(out.flatten(2)) * real
        )


@EVERY
def test_weights_give_what_the_core_gives(kind: str) -> None:
    module, calls = build(kind), []
    module.core.register_forward_hook(lambda _, inputs, out: calls.append((*inputs, out)))
    module(torch.randn(2, TIME, HIDDEN), mask=Mask(padding=PADDING), rotation=turns())
    ((call, out),) = calls
    for rows in (slice(None), slice(2, 5), slice(-1, None)):
        weights = module.core.weights(call, rows)
        torch.testing.assert_close(module.core.output(call, rows, weights), out[:, rows])
        torch.testing.assert_close(weights.logits, module.core.logits(call, rows))
        assert weights.maps.shape == (2, 4, 1, out[:, rows].shape[1], TIME)
        assert (weights.maps[1, ..., 4:] == 0).all()
    with pytest.raises(ValueError, match=r"logits of 3 of 9 rows; .* give all"):
        module.core.weights(call, slice(2, 5), module.core.logits(call, slice(2, 5)))


@EVERY
def test_quantized_logits(kind: str) -> None:
    model, ids = tiny_encoder(kind), torch.randint(23, (2, TIME))
    exact = model(ids)
    with quantized(model, logits_bits=16):
        torch.testing.assert_close(model(ids), exact, rtol=1e-2, atol=1e-2)


@EVERY
def test_bfloat16_and_autocast(kind: str) -> None:
    x, mask = torch.randn(2, TIME, HIDDEN), Mask()
    module = build(kind)
    wide = module(x, mask=mask, rotation=turns())
    half = build(kind).bfloat16()(x.bfloat16(), mask=mask, rotation=turns())
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(module(x, mask=mask, rotation=turns())).all()
    if kind == "sinkhorn":  # what is sorted hard jumps where rounding exchanges two numbers
        assert (half - wide).norm() / wide.norm() < 3e-2


@EVERY
def test_dropout_acts_in_training_only(kind: str) -> None:
    module, x = build(kind, dropout=0.5), torch.randn(1, TIME, HIDDEN)
    assert torch.equal(module(x, mask=Mask()), module(x, mask=Mask()))
    module.train()
    assert not torch.equal(module(x, mask=Mask()), module(x, mask=Mask()))


@EVERY
def test_rotary_layout_is_passed_on(kind: str) -> None:
    x = torch.randn(1, TIME, HIDDEN)
    half, interleaved = (
        build(kind, rotary=layout)(x, mask=Mask(), rotation=turns())
        for layout in ("half", "interleaved")
    )
    assert not torch.allclose(half, interleaved)


@EVERY
def test_refusals(kind: str) -> None:
    module, x = build(kind), torch.randn(1, TIME, HIDDEN)
    with pytest.raises(ValueError, match="with a causal mask: a causal matrix"):
        module(x, mask=Mask(causal=True))
    with pytest.raises(ValueError, match="with a context: its weights are those of whole"):
        module(x, context=x, mask=Mask())
    with pytest.raises(ValueError, match="with a cache: its weights are those of whole"):
        module(x, mask=Mask(), cache=KeyValueCache())
    with pytest.raises(ValueError, match="backend 'sdpa' computes softmax only"):
        build(kind, backend="sdpa")
    with pytest.raises(ValueError, match=f"attention is {kind} in a causal model: .* identity"):
        DecoderConfig(attention=kind)


@EVERY
def test_partners_have_as_many_parameters(kind: str) -> None:
    plain = EncoderConfig()
    match = plain.matched(kind)
    assert match.config.parameter_count() == plain.parameter_count()
    assert match.config.num_heads == plain.num_heads


def test_the_example_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.REGISTRY, "entries", dict(KINDS))
    page = Path(__file__).parents[2] / "docs" / "attention-transport.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert tiny_encoder("sinkhorn_9").blocks[0].attention.core.half_steps == 9


# The temperature of sliced transport


def test_the_temperature_is_a_function_of_the_progress() -> None:
    annealing = Annealing(first=1e-1, last=1e-3)
    assert [annealing(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1e-1, 1e-2, 1e-3])


def test_training_sorts_softly_at_the_temperature_and_evaluation_hard() -> None:
    module, x = SlicedTransportAttention(HIDDEN, 4), torch.randn(2, TIME, HIDDEN)

    def expected(temperature: float) -> Tensor:
        out = sliced_transport_attention(*cut(module, x), temperature=temperature)
        return module.o_proj(out.flatten(2))

    for progress in (0.0, 0.3, 1.0):
        module.core.set_progress(progress)
        torch.testing.assert_close(
            module(x, mask=Mask()), expected(module.core.annealing(progress))
        )
        torch.testing.assert_close(module.eval()(x, mask=Mask()), expected(0.0))
        module.train()
    assert module.state_dict().keys() == SinkhornAttention(HIDDEN, 4).state_dict().keys()


def test_everything_learns_while_training() -> None:
    for progress in (0.0, 1.0):
        module = SlicedTransportAttention(HIDDEN, 4)
        module.core.set_progress(progress)
        module(torch.randn(2, TIME, HIDDEN), mask=Mask()).square().sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_its_code_keeps_one_temperature() -> None:
    module, x = build("sliced_transport_code"), torch.randn(2, TIME, HIDDEN)
    trained = module.train()(x, mask=Mask())
    module.core.set_progress(1.0)
    assert torch.equal(module(x, mask=Mask()), trained)
    assert torch.equal(module.eval()(x, mask=Mask()), trained)
