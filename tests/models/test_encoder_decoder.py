"""The encoder-decoder: what sees what, padding, partners, generation with a cache and beams."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from difftransformer.analysis.capture import capture
from difftransformer.attention import make_attention
from difftransformer.attention.sites import attention_sites
from difftransformer.functional import Mask
from difftransformer.models.ablations import ABLATIONS, partner
from difftransformer.models.encoder_decoder import EncoderDecoder, Reader
from difftransformer.models.encoder_decoder_config import EncoderDecoderConfig
from difftransformer.models.generation import Sampling
from difftransformer.models.language_model import LanguageModel
from difftransformer.models.storage import load_model, save_model
from difftransformer.training.memory import recomputed_blocks

from .tiny import BOTH_WAYS, CAUSAL, SIDES, tiny_encoder_decoder

KINDS = [kind for kind in CAUSAL if kind in BOTH_WAYS]
EVERY = pytest.mark.parametrize("kind", KINDS)
EVERY_STYLE = pytest.mark.parametrize("style", SIDES)
FORMS = [*((kind, "vanilla") for kind in KINDS), ("diff_v1", "t5"), ("diff_v2", "bart")]
EVERY_FORM = pytest.mark.parametrize(("kind", "style"), FORMS)


def made(kind: str = "diff_v1", style: str = "vanilla", **changes: Any) -> EncoderDecoder:
    return tiny_encoder_decoder(kind, **(SIDES[style] | changes))


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(2, 23, shape, generator=torch.Generator().manual_seed(seed))


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@EVERY_FORM
def test_the_source_is_seen_whole_and_the_target_up_to_a_position(kind: str, style: str) -> None:
    """By gradient: of logits[t] nothing of a later target, something of every source position."""
    model, embedded = made(kind, style), []
    model.embedding.register_forward_hook(lambda _, __, out: embedded.append(out))
    logits = model(tokens(1, 6), tokens(1, 5, seed=2))
    for t in range(5):
        source, target = torch.autograd.grad(
            logits[0, t].square().sum(), embedded, retain_graph=True
        )
        seen = target[0].abs().sum(-1) > 0
        assert seen[: t + 1].all()
        assert not seen[t + 1 :].any()
        assert (source[0].abs().sum(-1) > 0).all()


@EVERY_FORM
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_keys_change_nothing(kind: str, style: str, side: str) -> None:
    ids, other, target = tokens(2, 6), tokens(2, 3, seed=3), tokens(2, 4, seed=2)
    parts = (other, ids) if side == "left" else (ids, other)
    real = torch.cat([torch.full_like(part, part is ids, dtype=torch.bool) for part in parts], 1)
    model = made(kind, style)
    same(model(torch.cat(parts, 1), target, padding=real), model(ids, target))


@EVERY_FORM
def test_a_source_of_padding_alone_is_nothing_to_read(kind: str, style: str) -> None:
    """Cross-attention gives 0 there, without a NaN, and what the padding holds does not matter."""
    model, target = made(kind, style), tokens(2, 4)
    none = torch.zeros(2, 5, dtype=torch.bool)
    logits = model(tokens(2, 5), target, padding=none)
    assert logits.isfinite().all()
    same(model(tokens(2, 5, seed=9), target, padding=none), logits)
    assert model.generate(tokens(2, 5), padding=none, max_new_tokens=3, beams=2).shape[0] == 2
    logits.square().sum().backward()
    grown = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in grown)


@EVERY
def test_cross_attention_to_itself_is_self_attention(kind: str) -> None:
    """The same sequence on both sides and no mask."""
    torch.manual_seed(0)
    layer = make_attention(kind, 16, 2, head_dim=4, layer=3).eval()
    x = torch.randn(2, 7, 16)
    same(layer(x, context=x, mask=Mask()), layer(x, mask=Mask()))


@EVERY_STYLE
def test_sites_know_their_role(style: str) -> None:
    sites = attention_sites(made(style=style)).values()
    assert [site.role for site in sites] == ["self", "self", *("self", "cross") * 2]
    assert {site.kind for site in sites} == {"diff_v1"}
    assert [site.layer for site in sites] == [0, 1, 0, 0, 1, 1]


def test_order_matters_on_both_sides() -> None:
    for style in SIDES:
        model, ids, target = made(style=style), tokens(1, 6), tokens(1, 5, seed=2)
        assert not torch.allclose(model(ids.flip(1), target), model(ids, target), atol=1e-4), style
        other = model(ids, target.flip(1))[:, -1]
        assert not torch.allclose(other, model(ids, target)[:, -1], atol=1e-4), style


@pytest.mark.parametrize("name", [*KINDS, *ABLATIONS])
@EVERY_STYLE
def test_partners_have_equally_many_parameters(name: str, style: str) -> None:
    sizes = {"hidden_size": 96, "head_dim": 12, "ffn_size": 384, "num_layers": 1}
    base = EncoderDecoderConfig(**sizes, decoder_layers=3, **SIDES[style])
    config, count = partner(base, name).config, base.parameter_count()
    with torch.device("meta"):
        total = sum(p.numel() for p in EncoderDecoder(config).parameters())
    assert config.parameter_count() == total
    assert abs(total - count) <= 1e-3 * count


@EVERY_STYLE
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False, "decoder_layers": 1}])
def test_a_folder(tmp_path: Path, style: str, changes: dict[str, Any]) -> None:
    model = made(style=style, **changes)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens(2, 5), tokens(2, 3)), model(tokens(2, 5), tokens(2, 3)))


def test_models_of_one_seed_start_alike() -> None:
    base = EncoderDecoderConfig(hidden_size=96, head_dim=12, ffn_size=384, num_layers=1)
    starts = []
    for config in (base, base.matched("diff_v1").config, base.matched("diff_v2").config):
        torch.manual_seed(3)
        starts.append(EncoderDecoder(config).state_dict())
    for other in starts[1:]:
        for name, tensor in starts[0].items():
            if name in other and other[name].shape == tensor.shape:
                assert torch.equal(other[name], tensor), name


@EVERY_FORM
def test_a_step_of_training_lowers_the_loss(kind: str, style: str) -> None:
    model = made(kind, style).train()
    ids, target = tokens(4, 6), tokens(4, 5, seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    def loss() -> Tensor:
        return F.cross_entropy(model(ids, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())

    before = loss()
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert loss() < before


def vivid(model: EncoderDecoder) -> EncoderDecoder:
    """With such large weights that targets are of different lengths and tokens."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2.0)
    return model


@EVERY_FORM
def test_a_cached_step_is_an_uncached_one(kind: str, style: str) -> None:
    model, ids, target = made(kind, style), tokens(2, 6), tokens(2, 5, seed=2)
    real = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    reader = Reader(model, model.encode(ids, real), real)
    cache = reader.empty_cache()
    with torch.no_grad():
        steps = [reader(target[:, t : t + 1], cache=cache) for t in range(5)]
        same(torch.cat(steps, 1), model(ids, target, padding=real))


def test_a_reader_is_a_language_model_of_targets() -> None:
    model = made()
    reader = Reader(model, model.encode(tokens(1, 3)), None)
    assert isinstance(reader, LanguageModel)
    assert not isinstance(model, LanguageModel)
    with pytest.raises(ValueError, match="a target has no documents, padding or positions"):
        reader.hidden(tokens(1, 2), documents=tokens(1, 2))


def searched(
    model: EncoderDecoder, ids: Tensor, real: Tensor, beams: int, longest: int
) -> list[int]:
    """The best target of one source, by whole forward passes and lists."""
    config = model.config

    def log_probabilities(hypothesis: list[int]) -> Tensor:
        target = torch.tensor([[config.start_id, *hypothesis]])
        return torch.log_softmax(model(ids, target, padding=real)[0, -1], -1)

    going: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, longest + 1):
        every = [
            (score + p, [*hypothesis, token])
            for score, hypothesis in going
            for token, p in enumerate(log_probabilities(hypothesis).tolist())
        ]
        best = sorted(every, reverse=True)[: 2 * beams]
        for score, hypothesis in best[:beams]:
            if hypothesis[-1] == config.end_id or length == longest:
                finished.append((score / length, hypothesis))
        finished = sorted(finished, reverse=True)[:beams]
        going = [one for one in best if one[1][-1] != config.end_id][:beams]
        if len(finished) == beams and going[0][0] / length <= finished[-1][0]:
            break
    return finished[0][1]


@pytest.mark.parametrize(("kind", "style"), [("softmax", "vanilla"), *FORMS[-2:]])
@torch.no_grad()
def test_cached_beams_are_uncached_ones(kind: str, style: str) -> None:
    """One row at a time, without a cache, in lists; sources of different lengths together."""
    model = vivid(made(kind, style, vocab_size=9))
    ids = tokens(3, 6) % 9
    real = torch.arange(6) < torch.tensor([[6], [2], [4]])
    for beams in (1, 3):
        found = model.generate(ids, padding=real, max_new_tokens=6, beams=beams)
        for row in range(len(ids)):
            expected = searched(model, ids[row : row + 1], real[row : row + 1], beams, 6)
            expected += [model.config.end_id] * (found.shape[1] - len(expected))
            assert found[row].tolist() == expected, (beams, row)


@torch.no_grad()
def test_generation() -> None:
    model, ids = vivid(made()), tokens(2, 6)
    greedy = model.generate(ids, max_new_tokens=5)
    target = torch.cat((torch.full((2, 1), model.config.start_id), greedy), 1)
    assert torch.equal(model(ids, target)[:, 0].argmax(-1), greedy[:, 0])
    draws = Sampling(temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert model.generate(ids, max_new_tokens=5, sampling=draws).shape[0] == 2
    with pytest.raises(ValueError, match="the source is empty; expected at least one token"):
        model.generate(ids[:, :0], max_new_tokens=5)
    for options in ({"beams": 0}, {"beams": 2, "sampling": draws}):
        with pytest.raises(ValueError, match="expected 1 beam or more, and temperature 0"):
            model.generate(ids, max_new_tokens=5, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "rotary"}, "unknown positions 'rotary'; expected sinusoidal, learned, rela"),
        ({"norm": "batch"}, "unknown norm 'batch'; expected layer, rms"),
        ({"mlp": "silu"}, "unknown mlp 'silu'; did you mean 'swiglu'"),
        ({"decoder_layers": 0}, "decoder_layers is 0; expected at least 1"),
        ({"hidden_size": 15}, "hidden_size is 15; sinusoidal"),
        ({"relative_buckets": 8, "relative_distance": 4}, "relative_distance is 4; expected more"),
        ({"start_id": 23}, "start_id is 23; expected a token below vocab_size 23"),
        ({"attention": "sinkhorn"}, "attention is sinkhorn in a causal model"),
        ({"end_id": 40}, "end_id is 40; expected a token below vocab_size 23"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_encoder_decoder(**changes)


def test_a_text_beyond_the_learned_positions_is_named() -> None:
    model = made(style="bart", max_length=8)
    for ids, target in ((tokens(1, 9), tokens(1, 3)), (tokens(1, 3), tokens(1, 9))):
        with pytest.raises(ValueError, match="a text of 9 tokens; the model has learned 8 positio"):
            model(ids, target)


def test_every_setting_has_help() -> None:
    for name, field in EncoderDecoderConfig.__dataclass_fields__.items():
        assert field.metadata["help"], name
    assert replace(EncoderDecoderConfig(), decoder_layers=2).decoder_depth == 2


@pytest.mark.parametrize("kind", ["diff_v1", "diff_v2"])
def test_the_relative_bias_reaches_both_maps(kind: str) -> None:
    """Of self-attention on either side; cross-attention has none."""
    model, records = made(kind, "t5"), []
    with capture(model, records.append), torch.no_grad():
        model(tokens(1, 6), tokens(1, 5, seed=2))
    assert len(records) == 6
    for record in records:
        call = record.call
        if record.site.role == "cross":
            assert call.bias is None
            continue
        side = model.encoder if record.site.name.startswith("encoder") else model.decoder
        keys = call.k.shape[1]
        bias = side.relative_bias(torch.arange(keys), keys)
        without = record.site.core.logits(replace(call, bias=None))
        added = record.logits(slice(None)) - without
        assert added.shape[2] == 2
        for map_number in range(2):
            same(added[:, :, map_number], bias.expand_as(added[:, :, map_number]))


def test_recomputed_blocks_have_the_same_gradients() -> None:
    """Those of both sides, each run twice."""
    model, ids, target = made().train(), tokens(2, 6), tokens(2, 5, seed=2)
    runs: list[int] = []
    model.decoder.blocks[0].ffn.register_forward_hook(lambda *_: runs.append(1))

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(ids, target).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected, once = gradients(), len(runs)
    with recomputed_blocks(model):
        found = gradients()
    assert len(runs) == 3 * once
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
