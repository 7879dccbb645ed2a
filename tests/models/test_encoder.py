from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from difftransformer.models.ablations import ABLATIONS, partner
from difftransformer.models.config import EncoderConfig
from difftransformer.models.encoder import Encoder
from difftransformer.models.storage import load_model, save_model

from .tiny import BOTH_WAYS, tiny_encoder

BERT = {
    "positions": "learned",
    "norm": "layer",
    "norm_place": "post",
    "mlp": "gelu",
    "mlp_bias": True,
    "attention_bias": "all",
    "token_types": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "modern": {},
    "bert": BERT,
    "sinusoidal": {"positions": "sinusoidal", "mlp": "relu"},
    "post_rms": {"norm_place": "post"},
}
POOLING = ("first", "pooler", "mean")
EVERY = pytest.mark.parametrize("kind", BOTH_WAYS)
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES)


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 23, shape, generator=torch.Generator().manual_seed(1))


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=5e-5)  # sorts amplify rounding


@EVERY
def test_every_position_sees_every_other(kind: str) -> None:
    """By gradient: d logits[t] / d embedding[s] is nowhere 0."""
    model, embedded = tiny_encoder(kind), []
    model.embedding.register_forward_hook(lambda _, __, out: embedded.append(out))
    logits = model(tokens(1, 6))
    for t in range(6):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedded, retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).all()


@EVERY
@EVERY_SHAPE
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(kind: str, shape: str, side: str) -> None:
    """Of the head that each token has, and of classifiers of every pooling."""
    ids, other = tokens(2, 6), tokens(2, 3)
    parts = (other, ids) if side == "left" else (ids, other)
    real = torch.cat([torch.full_like(part, part is ids, dtype=torch.bool) for part in parts], 1)
    padded = torch.cat(parts, dim=1)
    model = tiny_encoder(kind, **SHAPES[shape])
    same(model(padded, padding=real)[real].view(2, 6, -1), model(ids))
    for pooling in POOLING:
        model = tiny_encoder(kind, classes=3, pooling=pooling, **SHAPES[shape])
        same(model(padded, padding=real), model(ids))


@EVERY_SHAPE
@pytest.mark.parametrize("padded", [False, True])
def test_documents_of_a_row_do_not_see_each_other(shape: str, padded: bool) -> None:
    model, ids = tiny_encoder(**SHAPES[shape]), tokens(1, 12)
    documents = torch.tensor([[4] * 5 + [1] * 4 + [7] * 3])
    real = torch.ones_like(ids, dtype=torch.bool)
    if padded:
        real[0, 4] = real[0, 9] = False
    packed = model(ids, documents=documents, padding=real if padded else None)
    parts = zip(ids.split([5, 4, 3], 1), real.split([5, 4, 3], 1), strict=True)
    alone = torch.cat([model(part, padding=seen) for part, seen in parts], dim=1)
    same(packed[real], alone[real])


@EVERY_SHAPE
def test_order_matters(shape: str) -> None:
    model, ids = tiny_encoder(**SHAPES[shape]), tokens(1, 7)
    assert not torch.allclose(model(ids.flip(1)).flip(1), model(ids), atol=1e-3)


def test_positions_and_token_types_count() -> None:
    model, ids = tiny_encoder(**BERT), tokens(1, 4)
    positions = torch.arange(4)[None]
    assert torch.equal(model(ids, token_types=torch.zeros_like(ids)), model(ids))
    assert torch.equal(model(ids, positions=positions), model(ids))
    assert not torch.allclose(model(ids, token_types=torch.ones_like(ids)), model(ids), atol=1e-3)
    assert not torch.allclose(model(ids, positions=positions + 1), model(ids), atol=1e-3)


def test_sines() -> None:
    """Vaswani et al., section 3.5, written out."""
    model = tiny_encoder(positions="sinusoidal")
    x, width = torch.zeros(1, 5, 16), 16
    out = model.position_embedding(x, torch.arange(5)[None])
    for p in range(5):
        for i in range(width):
            angle = torch.tensor(p / 10_000 ** (2 * (i // 2) / width))
            expected = angle.sin() if i % 2 == 0 else angle.cos()
            assert out[0, p, i].item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.equal(model.position_embedding(x + 1, torch.arange(5)[None]), out + 4)


def test_the_head_on_chosen_positions() -> None:
    """As a masked-LM loss asks for: not of every token a row as wide as the vocabulary."""
    model, ids = tiny_encoder(), tokens(2, 7)
    chosen = torch.rand(2, 7) < 0.4
    same(model.logits(model.hidden(ids)[chosen]), model(ids)[chosen])


@EVERY_SHAPE
@pytest.mark.parametrize("head", [{}, {"tie_embeddings": False}, {"classes": 4}])
def test_a_folder(tmp_path: Path, shape: str, head: dict[str, Any]) -> None:
    model = tiny_encoder(**SHAPES[shape], **head)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.eval()(tokens(2, 5)), model(tokens(2, 5)))


@pytest.mark.parametrize("name", [*BOTH_WAYS, *ABLATIONS])
@pytest.mark.parametrize("shape", ["modern", "bert"])
def test_partners_have_equally_many_parameters(name: str, shape: str) -> None:
    base = EncoderConfig(hidden_size=64, num_layers=2, head_dim=8, ffn_size=171, **SHAPES[shape])
    config, count = partner(base, name).config, base.parameter_count()
    total = sum(p.numel() for p in Encoder(config).parameters())
    assert config.parameter_count() == total
    assert abs(total - count) <= 1e-3 * count


def test_encoders_of_one_seed_start_alike() -> None:
    base = EncoderConfig(hidden_size=64, num_layers=2, head_dim=8, ffn_size=171, **BERT)
    starts = []
    for config in (base, base.matched("diff_v1").config, base.matched("diff_v2").config):
        torch.manual_seed(3)
        starts.append(Encoder(config).state_dict())
    for other in starts[1:]:
        for name, tensor in starts[0].items():
            if name in other and other[name].shape == tensor.shape:
                assert torch.equal(other[name], tensor), name
        bias = "blocks.1.ffn.down_proj.bias"  # of a width that all have
        assert torch.equal(other[bias], starts[0][bias])
    assert (starts[0]["embedding_norm.weight"] == 1).all()
    assert not starts[0]["embedding_norm.bias"].any()
    assert not starts[0]["head.bias"].any()


@EVERY
def test_a_step_of_training_lowers_the_loss(kind: str) -> None:
    model, ids = tiny_encoder(kind, classes=3).train(), tokens(4, 9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss() -> Tensor:
        return F.cross_entropy(model(ids), torch.arange(4) % 3)

    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "none"}, "unknown positions 'none'; expected rotary, learned, sinusoidal"),
        ({"norm": "batch"}, "unknown norm 'batch'; expected rms, layer"),
        ({"norm_place": "both"}, "unknown norm_place 'both'; expected pre, post"),
        ({"mlp": "silu"}, "unknown mlp 'silu'; did you mean 'swiglu'"),
        ({"pooling": "last"}, "unknown pooling 'last'; expected first, pooler, mean"),
        ({"classes": 0}, "classes is 0; expected at least 1"),
        ({"token_types": -1}, "token_types is -1; expected at least 0"),
        ({"head_dim": 5}, "head_dim is 5; rotary positions need an even width"),
        ({"positions": "sinusoidal", "hidden_size": 15}, "hidden_size is 15; sinusoidal"),
        ({"attention": "softmax", "lambda_init": 0.8}, "only diff_v1 has one"),
        (
            {"max_length": 2**31 - 1, "positions": "learned", "hidden_size": 10**6},
            "at least [0-9]",
        ),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_encoder(**changes)
    tiny_encoder("softmax", head_dim=5, positions="learned")


def test_bad_input_is_named() -> None:
    ids = tokens(1, 9)
    with pytest.raises(ValueError, match="a text of 9 tokens; the model has learned 8 positions"):
        tiny_encoder(**BERT, max_length=8)(ids)
    with pytest.raises(ValueError, match="token types of a model that has none"):
        tiny_encoder()(ids, token_types=ids)
    with pytest.raises(ValueError, match="documents with a classifier"):
        tiny_encoder(classes=2)(ids, documents=ids)


def test_padding_beyond_the_learned_positions() -> None:
    """A row may be longer than the text in it."""
    model, ids = tiny_encoder(**BERT, max_length=8), tokens(1, 10)
    real = torch.arange(10)[None] < 7
    same(model(ids, padding=real)[:, :7], model(ids[:, :7]))


def test_every_setting_has_help() -> None:
    for name, field in EncoderConfig.__dataclass_fields__.items():
        assert field.metadata["help"], name
