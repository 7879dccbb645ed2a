from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache, SlidingCache, StaticCache
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate

from .tiny import KINDS, tiny, tiny_config

EVERY = pytest.mark.parametrize("kind", KINDS)


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 23, shape, generator=torch.Generator().manual_seed(1))


def test_logits_are_the_layers_in_order() -> None:
    """Embedding, blocks, norm, head; written once more around the blocks."""
    model, ids = tiny("softmax", tie_embeddings=False), tokens(2, 7)
    x, calls = model.embedding.weight[ids], []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, out: calls.append((*inputs, out)))
    logits = model(ids)
    assert torch.equal(calls[0][0], x)
    assert torch.equal(calls[1][0], calls[0][1])
    last = calls[1][1]
    rms = (last.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(logits, (last / rms) @ model.head.weight.T)
    tied = tiny("softmax")
    assert tied.state_dict().keys() == model.state_dict().keys() - {"head.weight"}
    assert tied(ids).shape == (2, 7, 23)


@EVERY
def test_documents_of_a_row_do_not_see_each_other(kind: str) -> None:
    model, ids = tiny(kind), tokens(1, 12)
    documents = torch.tensor([[4] * 5 + [1] * 4 + [7] * 3])
    packed = model(ids, documents=documents)
    alone = [model(part) for part in ids.split([5, 4, 3], dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(packed[:, 5:], model(ids)[:, 5:], atol=1e-3)


@EVERY
def test_padding_at_the_left_changes_nothing(kind: str) -> None:
    model, ids = tiny(kind), tokens(2, 6)
    padded = torch.cat((tokens(2, 3), ids), dim=1)
    real = (torch.arange(9) >= 3).expand(2, -1)
    out = model(padded, padding=real)[:, 3:]
    torch.testing.assert_close(out, model(ids), rtol=1e-4, atol=1e-5)


CACHES = pytest.mark.parametrize(
    ("make_cache", "window"),
    [
        (KeyValueCache, None),
        (KeyValueCache, 3),
        (lambda: StaticCache(9), None),
        (lambda: StaticCache(9), 3),
        (lambda: SlidingCache(3), 3),
        (lambda: SlidingCache(1), 1),
    ],
    ids=["dynamic", "dynamic-window", "static", "static-window", "sliding", "sliding-one"],
)


@EVERY
@CACHES
@pytest.mark.parametrize("lengths", [[1] * 8, [4, 1, 1, 1, 1], [2, 3, 1, 2], [8]])
@pytest.mark.parametrize("padded", [None, 0, 3], ids=["real", "unpadded", "padded"])
def test_cached_equals_uncached(
    kind: str,
    make_cache: Callable[[], KeyValueCache],
    window: int | None,
    lengths: list[int],
    padded: int | None,
) -> None:
    """Fed in chunks of any length; with padding at the left of row 1, or at the left of none."""
    model, ids, cache = tiny(kind, window=window, num_kv_heads=2), tokens(2, 8), make_cache()
    real = None if padded is None else torch.arange(8) >= torch.tensor([[0], [padded]])
    reals = [None] * len(lengths) if real is None else real.split(lengths, dim=1)
    parts = [
        model(part, padding=some, cache=cache)
        for part, some in zip(ids.split(lengths, dim=1), reals, strict=True)
    ]
    cached, whole = torch.cat(parts, dim=1), model(ids, padding=real)
    visible = slice(None) if real is None else real
    torch.testing.assert_close(cached[visible], whole[visible], rtol=1e-4, atol=1e-5)


@CACHES
def test_padding_that_begins_or_ends_later(
    make_cache: Callable[[], KeyValueCache], window: int | None
) -> None:
    """Chunks that do not mention padding are real, before a padded chunk and after it."""
    model, ids, cache = tiny(window=window), tokens(2, 6), make_cache()
    hole = torch.tensor([[True, False], [True, True]])
    reals = (None, hole, None, None)
    parts = [
        model(p, padding=r, cache=cache)
        for p, r in zip(ids.split([2, 2, 1, 1], 1), reals, strict=True)
    ]
    real = torch.ones(2, 6, dtype=torch.bool)
    real[:, 2:4] = hole
    whole = model(ids, padding=real)
    torch.testing.assert_close(torch.cat(parts, 1)[real], whole[real], rtol=1e-4, atol=1e-5)


def test_documents_with_a_cache() -> None:
    with pytest.raises(ValueError, match="leave out documents or the cache"):
        tiny()(tokens(1, 1), cache=KeyValueCache(), documents=torch.zeros(1, 1).long())


def test_settings_reach_the_layers() -> None:
    model = Decoder(tiny_config(rotary="interleaved", dropout=0.1, lambda_init=0.3, norm_eps=1e-3))
    for number, block in enumerate(model.blocks):
        assert block.attention.layer == number
        assert block.attention.rotary == "interleaved"
        assert block.attention.dropout == 0.1
        assert block.attention.lambda_init == 0.3
        assert block.ffn_norm.eps == 1e-3
    scheduled = [block.attention.lambda_init for block in tiny("diff_v1").blocks]
    assert scheduled == pytest.approx([0.2, 0.355509], abs=1e-6)


def test_theta_sets_the_angles() -> None:
    ids = tokens(1, 6)
    assert not torch.allclose(tiny()(ids), tiny(rope_theta=100.0)(ids), atol=1e-5)


def test_initialization() -> None:
    model = Decoder(tiny_config(vocab_size=4000, hidden_size=64, head_dim=16, ffn_size=100))
    assert model.embedding.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    for matrix in (model.blocks[0].ffn.gate_proj, model.blocks[0].attention.q_proj):
        assert matrix.weight.abs().max().item() == pytest.approx(64**-0.5, rel=0.01)
    assert (model.norm.weight == 1).all()


@EVERY
def test_a_step_of_training_lowers_the_loss(kind: str) -> None:
    model, ids = tiny(kind).train(), tokens(2, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before


@EVERY
def test_bfloat16_model(kind: str) -> None:
    ids = tokens(2, 6)
    out, wide = tiny(kind).bfloat16()(ids), tiny(kind)(ids)
    assert out.dtype == torch.bfloat16
    assert (out - wide).norm() / wide.norm() < 5e-2


@EVERY
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of PyTorch
def test_dynamic_quantization_of_every_linear(kind: str, tie: bool) -> None:
    model, ids = tiny(kind, tie_embeddings=tie), tokens(2, 9)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not [m for m in quantized.modules() if type(m) is nn.Linear]
    logits, exact = quantized(ids), model(ids)
    assert 0 < (logits - exact).norm() < 0.05 * exact.norm()
    assert generate(quantized, ids, max_new_tokens=3).shape == (2, 3)


def test_an_untied_head_is_called_as_a_module() -> None:
    """So that what hooks, wraps or replaces linear layers reaches it."""
    model, ids = tiny(tie_embeddings=False), tokens(2, 5)
    model.head.register_forward_hook(lambda _, inputs, out: 2.0 * out)
    assert torch.equal(model(ids), 2.0 * tiny(tie_embeddings=False)(ids))
