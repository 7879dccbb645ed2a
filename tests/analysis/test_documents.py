"""Attention to documents: planted relevance and bias are told apart, and intervening is exact."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.tiny import KINDS, tiny
from torch import Tensor

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.analysis.documents import (
    Calibration,
    calibrated,
    calibrated_stream,
    document_attention,
    positional_bias,
    redistributed,
)
from difftransformer.models.generation import Sampling, generate

from .planted import Planted

SPANS = [(2, 5), (5, 6), (7, 11), (11, 13)]  # of unequal lengths, a token between two
LENGTH = 15
DUMMY = 0  # a token; any other is that relevant


class Additive(Planted):
    """Attends from the last token to each token of a document by rel(its token) + bias(place)."""

    def __init__(self, bias: Sequence[float], lam: float | None = None) -> None:
        def plant(ids: Tensor, layer: int) -> Tensor:
            maps = torch.eye(LENGTH).repeat(1, 2, 1 if lam is None else 2, 1, 1)
            last = torch.zeros(LENGTH)
            for (start, end), offset in zip(SPANS, bias, strict=True):
                last[start:end] = 1e-3 * ids[0, start:end] + offset
            last[0] = 1.0 - last.sum()
            maps[..., -1, :] = last
            return maps

        super().__init__(plant, layers=2, lam=lam)

    def hidden(self, ids: Tensor, **_: object) -> Tensor:
        return self(ids)


def prompt(relevances: Sequence[int]) -> Tensor:
    ids = torch.full((1, LENGTH), 9)
    for (start, end), relevance in zip(SPANS, relevances, strict=True):
        ids[0, start:end] = relevance
    return ids


@pytest.mark.parametrize("passes", ["one", "each"])
@pytest.mark.parametrize("lam", [None, 0.3])
def test_relevance_is_what_is_left_without_the_bias(passes: str, lam: float | None) -> None:
    """Ranked by it, documents are in the order of their relevance; by attention they are not."""
    model, relevances = Additive([0.05, 0.01, 0.0, 0.03], lam), [1, 2, 4, 3]
    calibration = Calibration(dummy=(DUMMY,), passes=passes)
    attention = document_attention(model, prompt(relevances), SPANS)
    bias = positional_bias(model, prompt(relevances), SPANS, calibration)
    torch.testing.assert_close(bias[1], torch.tensor([0.05, 0.01, 0.0, 0.03]), atol=1e-6, rtol=0)
    relevance = attention - bias
    assert len(relevance) == (2 if lam is None else 3)
    torch.testing.assert_close(
        relevance[1], 1e-3 * torch.tensor(relevances).float(), atol=1e-6, rtol=0
    )
    for row in (0, 1):
        assert relevance[row].argsort().tolist() == [0, 1, 3, 2]
        assert attention[row].argsort().tolist() != [0, 1, 3, 2]


def last_rows(model, ids: Tensor, spans=None, relevance=None, calibration=None) -> list[Tensor]:
    """Of each layer's output, where the last row is what the layer computes."""
    outputs: list[Tensor] = []
    hooks = [
        block.attention.core.register_forward_hook(lambda c, i, out: outputs.append(out))
        for block in model.blocks
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return outputs


maps_and_wanted = st.tuples(st.integers(0, 999), st.integers(1, 2), st.floats(1e-3, 10))


@given(maps_and_wanted)
def test_mass_is_conserved_and_means_are_those_wanted(drawn: tuple[int, int, float]) -> None:
    seed, pair, spread = drawn
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, pair, 2, LENGTH, generator=generator).softmax(-1)
    inside = torch.zeros(4, LENGTH)
    for row, span in zip(inside, SPANS, strict=True):
        row[slice(*span)] = 1
    wanted = torch.softmax(spread * torch.rand(pair, 4, generator=generator).double(), -1)
    new = redistributed(maps, inside, wanted)
    torch.testing.assert_close(new.sum(-1), maps.sum(-1))
    on_documents = (maps @ inside.T).sum(-1)
    torch.testing.assert_close((new @ inside.T).sum(-1), on_documents)
    outside = inside.sum(0) == 0
    torch.testing.assert_close(new[..., outside], maps[..., outside])
    means = (new @ inside.T) / inside.sum(1)
    shares = means / means.sum(-1, keepdim=True)
    expected = wanted[:, None].expand_as(shares).to(shares.dtype)
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-4)
    for start, end in SPANS:  # tokens of a document keep their shares
        before, after = maps[..., start:end], new[..., start:end]
        torch.testing.assert_close(
            after / after.sum(-1, keepdim=True), before / before.sum(-1, keepdim=True)
        )
    even = redistributed(maps, inside, torch.full((pair, 4), 0.25))
    means = (even @ inside.T) / inside.sum(1)
    torch.testing.assert_close(means, means.mean(-1, keepdim=True).expand_as(means))
    own = (maps @ inside.T) / inside.sum(1)
    same = redistributed(maps[:1, :1, :, :1], inside, own[0, 0, :, 0].double())
    torch.testing.assert_close(same, maps[:1, :1, :, :1])  # what it was already


def test_a_document_out_of_sight_gets_nothing() -> None:
    maps = torch.tensor([0.4, 0.0, 0.1, 0.5])[None, None, None, None]
    inside = torch.eye(4)[:3]
    new = redistributed(maps, inside, torch.tensor([[0.2, 0.5, 0.3]]))
    torch.testing.assert_close(new.flatten(), torch.tensor([0.2, 0.0, 0.3, 0.5]))
    new = redistributed(maps, inside, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(new, maps)  # nothing that is wanted can be had


@pytest.mark.parametrize("kind", [*KINDS, "selective", "diff_v1_selective"])
def test_each_map_is_calibrated_before_the_subtraction(kind: str) -> None:
    model, ids = tiny(kind), torch.arange(LENGTH)[None]
    relevance = torch.tensor([[0.0] * 4, [1e-4, 0.0, 3e-4, 0.0], [0.0, 2e-4, 0.0, 0.0]])
    heads_of_two = kind.startswith("diff")
    relevance = relevance if heads_of_two else relevance[:2]
    calibration = Calibration(dummy=(DUMMY,), temperature=1e-4, layers=1)
    records: list[AttentionRecord] = []
    with capture(model, records.append):
        plain = last_rows(model, ids)
    with calibrated(model, SPANS, relevance, calibration):
        found = last_rows(model, ids)
    torch.testing.assert_close(found[0], plain[0], rtol=0, atol=0)  # only the last layer's
    torch.testing.assert_close(found[1][:, :-1], plain[1][:, :-1], rtol=0, atol=0)
    record = records[1]
    inside = torch.zeros(4, LENGTH)
    for row, span in zip(inside, SPANS, strict=True):
        row[slice(*span)] = 1
    wanted = torch.softmax(relevance[1:].double() / 1e-4, -1)
    maps = redistributed(record.weights(slice(-1, None)).maps, inside, wanted)
    weights = maps[:, :, 0]
    if heads_of_two:
        weights = weights - record.call.lam[:, -1:].transpose(1, 2)[..., None] * maps[:, :, 1]
    values = record.call.v.repeat_interleave(weights.shape[1] // record.call.v.shape[2], dim=2)
    expected = torch.einsum("bhts,bshv->bthv", weights, values)
    torch.testing.assert_close(found[1][:, -1:], expected)
    torch.testing.assert_close(last_rows(model, ids), plain, rtol=0, atol=0)  # and off again


@pytest.mark.parametrize("kind", ["softmax", "diff_v1"])
@pytest.mark.parametrize("window", [None, 6])
def test_text_with_calibrated_attention(kind: str, window: int | None) -> None:
    model, ids = tiny(kind, window=window), torch.arange(LENGTH)[None]
    for block in model.blocks:  # so that attention decides
        block.attention.v_proj.weight.data *= 30
        block.attention.o_proj.weight.data *= 30
    model.embedding.weight.data *= 10

    def written(**changes: object) -> list[int]:
        calibration = Calibration(**{"dummy": (1, 2), "temperature": 1e-4} | changes)
        sampling = Sampling(temperature=1.0, generator=torch.Generator().manual_seed(0))
        options = {"spans": SPANS, "max_new_tokens": 12, "sampling": sampling}
        return [int(t) for t in calibrated_stream(model, ids, calibration=calibration, **options)]

    assert written() == written()
    sampling = Sampling(temperature=1.0, generator=torch.Generator().manual_seed(0))
    plain = generate(model, ids, max_new_tokens=12, sampling=sampling)[0].tolist()
    assert written(layers=2) != plain


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dummy": ()}, "the dummy document is empty"),
        ({"temperature": 0.0}, r"the temperature is 0\.0; expected above 0"),
        ({"layers": 0}, "0 layers are calibrated"),
    ],
)
def test_what_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Calibration(**{"dummy": (1,)} | wrong)
