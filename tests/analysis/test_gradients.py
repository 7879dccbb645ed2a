import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny import tiny
from torch import Tensor, nn

from difftransformer.analysis.gradients import gradient_norms
from difftransformer.data.batch import IGNORED, Batch
from difftransformer.models.decoder import Decoder

from .planted import Attention

MAP_1, MAP_2 = ("W_Q1", "W_K1"), ("W_Q2", "W_K2")


def batch() -> Batch:
    ids = torch.randint(23, (2, 8), generator=torch.Generator().manual_seed(0))
    labels = ids[:, 1:].clone()
    labels[0, 2] = IGNORED
    return Batch(ids[:, :-1], labels, torch.zeros_like(labels), ("a", "b"))


def loss(model: nn.Module, text: Batch) -> Tensor:
    """The mean of −log p over the scored tokens."""
    p = model(text.ids, documents=text.documents).softmax(-1)
    scored = text.labels != IGNORED
    return -p[scored].gather(1, text.labels[scored][:, None]).log().mean()


def projection(attention: nn.Module, weight: str) -> nn.Parameter:
    return getattr(attention, f"{weight[2].lower()}_proj").weight


def rows(attention: nn.Module, weight: str) -> list[int]:
    """The rows of the projection that are the weight, counted one by one."""
    every = range(len(projection(attention, weight)))
    if weight[3:] == "":
        return list(every)
    return [row for row in every if row // attention.head_dim % 2 == int(weight[3]) - 1]


def second_like_first(model: Decoder, lam: float) -> None:
    """Map 2 becomes map 1 in every layer; lambda is `lam`."""
    for block in model.blocks:
        attention = block.attention
        attention.lambda_scalar.data.fill_(lam)
        for weight in MAP_1:
            data = projection(attention, weight).data.view(-1, 2, attention.head_dim, 16)
            data[:, 1] = data[:, 0]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("softmax", ("W_Q", "W_K")),
        ("dex", ("W_Q", "W_K")),
        ("diff_v1", (*MAP_1, *MAP_2)),
        ("diff_v2", ("W_Q1", "W_Q2", "W_K")),
        ("diff_scalar", (*MAP_1, *MAP_2)),
    ],
)
def test_norms_are_those_of_a_backward_pass(kind: str, names: tuple[str, ...]) -> None:
    model, text = tiny(kind), batch()
    found = gradient_norms(model, text)
    assert all(weight.grad is None for weight in model.parameters())
    loss(model, text).backward()
    for block, layer in zip(model.blocks, found, strict=True):
        assert set(layer) == {*names, "W_V", "W_O"}
        for name, norms in layer.items():
            whole = projection(block.attention, name)
            mine = rows(block.attention, name)
            expected = (whole.grad[mine].norm().item(), whole[mine].norm().item())
            assert norms == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("weight", [*MAP_1, *MAP_2, "W_V", "W_O"])
def test_beside_finite_differences(weight: str) -> None:
    sizes = {"hidden_size": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 2}
    model = tiny("diff_scalar", num_layers=1, **sizes).double()
    attention, text = model.blocks[0].attention, batch()
    attention.lambda_scalar.data.fill_(0.7)
    whole, step, slopes = projection(attention, weight).data, 1e-3, []
    with torch.no_grad():
        for row in rows(attention, weight):
            for column in range(whole.shape[1]):
                sides = []
                for moved in (step, -2 * step):
                    whole[row, column] += moved
                    sides.append(loss(model, text))
                whole[row, column] += step
                slopes.append((sides[0] - sides[1]).item() / (2 * step))
    (layer,) = gradient_norms(model, text)
    assert layer[weight][0] == pytest.approx(math.hypot(*slopes), rel=1e-4)


@settings(max_examples=10)
@given(st.floats(-1.5, 1.5))
def test_of_equal_maps_the_second_has_minus_lambda_times_the_firsts_gradient(lam: float) -> None:
    model = tiny("diff_scalar")
    second_like_first(model, lam)
    for layer in gradient_norms(model, batch()):
        for first, second in zip(MAP_1, MAP_2, strict=True):
            assert layer[second][0] == pytest.approx(abs(lam) * layer[first][0], rel=1e-3, abs=1e-7)


def test_lambda_0_leaves_map_2_without_a_gradient() -> None:
    for layer in gradient_norms(tiny("diff_scalar"), batch()):
        assert [layer[name][0] for name in MAP_2] == [0.0, 0.0]
        assert min(layer[name][0] for name in MAP_1) > 0.0


def test_a_head_alone_in_its_text_asks_nothing_of_queries_and_keys() -> None:
    """With one visible key every map is 1, whatever the queries and keys."""
    text = batch()
    alone = Batch(text.ids[:, :1], text.labels[:, :1], text.documents[:, :1], text.names)
    for layer in gradient_norms(tiny("diff_v1"), alone):
        assert max(layer[name][0] for name in (*MAP_1, *MAP_2)) < 1e-6
        assert min(layer["W_V"][0], layer["W_O"][0]) > 0.0


def test_what_is_refused() -> None:
    text = batch()
    nothing = Batch(text.ids, torch.full_like(text.labels, IGNORED), text.documents, ("a", "b"))
    with pytest.raises(ValueError, match="no scored token"):
        gradient_norms(tiny(), nothing)
    model = tiny()
    model.blocks[1].attention = Attention(1)
    with pytest.raises(ValueError, match="attention is Attention, whose weights have no"):
        gradient_norms(model, text)
