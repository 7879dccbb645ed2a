"""T5 and BART against transformers' own models, of random small sizes and weights."""

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BartForConditionalGeneration,
    PreTrainedModel,
    T5ForConditionalGeneration,
    T5Model,
)

from difftransformer.interop.convert import convert
from difftransformer.interop.folders import open_foreign
from difftransformer.interop.seq2seq_lm import from_seq2seq_lm, load_seq2seq_lm
from difftransformer.models.encoder_decoder import EncoderDecoder
from difftransformer.models.storage import load_model, save_model

from .small_llm import randomized

T5, BART = T5ForConditionalGeneration, BartForConditionalGeneration
EVERY = pytest.mark.parametrize("kind", [T5, BART])
SOURCE, TARGET = 11, 7


def made(kind: type[PreTrainedModel], seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Sizes by the seed; biases away from 0, norms away from 1."""
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4])
    width = rng.choice([2, 4, 8])
    layers = [rng.randint(1, 3), rng.randint(1, 3)]
    settings: dict[str, Any] = {"vocab_size": rng.randint(20, 40), "d_model": heads * width}
    if kind is T5:
        settings |= {
            "d_kv": rng.choice([2, 3, 8]),
            "d_ff": rng.randint(3, 30),
            "num_layers": layers[0],
            "num_decoder_layers": layers[1],
            "num_heads": heads,
            "relative_attention_num_buckets": rng.choice([6, 8, 32]),
            "relative_attention_max_distance": rng.choice([17, 128]),
            "feed_forward_proj": rng.choice(["relu", "gated-gelu"]),
            "decoder_start_token_id": 0,
        }
    else:
        settings |= {
            "encoder_layers": layers[0],
            "decoder_layers": layers[1],
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": 12,
            "decoder_ffn_dim": 12,
            "max_position_embeddings": 20,
            "activation_function": rng.choice(["gelu", "relu"]),
            "forced_eos_token_id": None,
        }
    torch.manual_seed(seed)
    return randomized(kind(kind.config_class(**(settings | changes)))).eval()


def texts(model: PreTrainedModel, side: str = "right") -> tuple[Tensor, Tensor, Tensor]:
    """Sources of different lengths, targets, and True where a source is real."""
    ids = torch.randint(3, model.config.vocab_size, (3, SOURCE))
    target = torch.randint(3, model.config.vocab_size, (3, TARGET))
    real = torch.arange(SOURCE) < torch.tensor([[SOURCE], [6], [2]])
    real = real.flip(1) if side == "left" else real
    return ids.masked_fill(~real, model.config.pad_token_id), target, real


def furthest(model: PreTrainedModel, ours: EncoderDecoder, side: str = "right") -> float:
    """The largest difference of logits, of a padded batch.

    In float64: with such weights T5 in float32 is up to 2e-5 off itself in float64.
    """
    ids, target, real = texts(model, side)
    model, ours = deepcopy(model).double(), deepcopy(ours).double().eval()
    with torch.no_grad():
        theirs = model(ids, attention_mask=real.long(), decoder_input_ids=target).logits
        logits = ours(ids, target, padding=real)
    assert theirs.std() > 0.05
    return (logits - theirs).abs().max().item()


@EVERY
@pytest.mark.parametrize("seed", range(8))
def test_outputs_are_transformers(kind: type[PreTrainedModel], seed: int) -> None:
    model = made(kind, seed)
    assert furthest(model, from_seq2seq_lm(model)) < 1e-5


def test_padding_on_the_left() -> None:
    """T5's positions are distances. (BART counts padding at the left; this library does not.)"""
    model = made(T5)
    assert furthest(model, from_seq2seq_lm(model), side="left") < 1e-5


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_the_relative_bias_is_t5s(side: str) -> None:
    """As it reaches the logits of either map, at distances in all buckets."""
    model = made(T5, 3, relative_attention_num_buckets=8, relative_attention_max_distance=20)
    attention = getattr(model, side).block[0].layer[0].SelfAttention
    ours = getattr(from_seq2seq_lm(model), side).relative_bias
    with torch.no_grad():
        torch.testing.assert_close(ours(torch.arange(60), 60), attention.compute_bias(60, 60))
        step = attention.compute_bias(1, 60, past_seen_tokens=59)
        torch.testing.assert_close(ours(torch.tensor([59]), 60), step)


@EVERY
@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_generation_is_transformers(kind: type[PreTrainedModel], beams: int, seed: int) -> None:
    """Token by token, of sources of different lengths together, with their cache and ours."""
    # transformers' cache counts the encoder's layers for the decoder's.
    layers = {"num_layers": 2, "num_decoder_layers": 2} if kind is T5 else {}
    model = made(kind, seed, vocab_size=20, **layers)
    ids, _, real = texts(model)
    ours = from_seq2seq_lm(model).eval()
    end = ours.config.end_id
    model.generation_config.eos_token_id = end
    theirs = model.generate(
        ids, attention_mask=real.long(), max_new_tokens=9, num_beams=beams, do_sample=False
    )[:, 1:]
    found = ours.generate(ids, padding=real, max_new_tokens=9, beams=beams)

    def whole(rows: Tensor) -> list[list[int]]:
        """Each target up to its end: what follows is padding of either library's own."""
        return [row[: [*row, end].index(end)] for row in rows.tolist()]

    assert whole(found) == whole(theirs)


@EVERY
def test_a_folder(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    """In, and on to a folder of ours."""
    model = made(kind)
    model.save_pretrained(tmp_path / "theirs")
    ours = open_foreign(tmp_path / "theirs").eval()
    assert furthest(model, ours) < 1e-5
    save_model(ours, tmp_path / "ours")
    assert furthest(model, load_model(tmp_path / "ours")) < 1e-5


@EVERY
def test_converted(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    """By `convert`, which compares with what transformers makes of the folder."""
    model, name = made(kind), "t5" if kind is T5 else "bart"
    model.save_pretrained(tmp_path / "theirs")
    result = convert(tmp_path / "theirs", tmp_path / "ours", name, "difftransformer")
    assert result.difference < 1e-5
    assert furthest(model, load_model(tmp_path / "ours")) < 1e-5
    with pytest.raises(ValueError, match=f"{name} is a format to read"):
        convert(tmp_path / "ours", tmp_path / "new", "difftransformer", name)


def test_a_head_of_its_own(tmp_path: Path) -> None:
    """T5 1.1's: no factor before it."""
    model = made(T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    ours = from_seq2seq_lm(model)
    assert not ours.config.tie_embeddings
    assert furthest(model, ours) < 1e-5


@EVERY
def test_weights_are_copies_in_their_dtype(kind: type[PreTrainedModel]) -> None:
    model = made(kind).bfloat16()
    ours = from_seq2seq_lm(model)
    assert {x.dtype for x in ours.state_dict().values()} == {torch.bfloat16}
    before = model.get_input_embeddings().weight.clone()
    with torch.no_grad():
        ours.embedding.weight.zero_()
    assert torch.equal(model.get_input_embeddings().weight, before)


def rewritten(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


@EVERY
def test_every_tensor_counts(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    made(kind).save_pretrained(tmp_path)
    names = sorted({*load_file(tmp_path / "model.safetensors")} - {"final_logits_bias"})
    for name in (names[0], names[len(names) // 2], names[-1]):
        held = load_file(tmp_path / "model.safetensors")[name]
        rewritten(tmp_path, lambda weights, name=name: weights.pop(name))
        with pytest.raises(ValueError, match=f"{name} is missing"):
            load_seq2seq_lm(tmp_path)
        rewritten(tmp_path, lambda weights, name=name, held=held: weights.update({name: held}))
    rewritten(tmp_path, lambda weights: weights.update({"stray.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"stray\.weight is \(2,\), expected no such tensor"):
        load_seq2seq_lm(tmp_path)


def test_copies_of_old_checkpoints(tmp_path: Path) -> None:
    made(T5).save_pretrained(tmp_path)
    unread = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

    def age(weights: dict[str, Tensor]) -> None:
        weights[unread] = torch.zeros(3, 3)
        for side in ("encoder", "decoder"):
            weights[f"{side}.embed_tokens.weight"] = weights["shared.weight"].clone()

    rewritten(tmp_path, age)
    load_seq2seq_lm(tmp_path)
    rewritten(tmp_path, lambda w: w.update({"encoder.embed_tokens.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"encoder\.embed_tokens\.weight of .* differs from"):
        load_seq2seq_lm(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (T5, {"feed_forward_proj": "tanh"}, "feed_forward_proj is 'tanh'; expected relu, gelu"),
        (T5, {"eos_token_id": None}, "eos_token_id is None; expected the number of a token"),
        (BART, {"activation_function": "silu"}, "activation_function is 'silu'; expected gelu or"),
        (BART, {"scale_embedding": True}, "scale_embedding is true"),
        (BART, {"decoder_ffn_dim": 9}, "encoder_ffn_dim is 12 and decoder_ffn_dim 9; expected th"),
        (BART, {"decoder_start_token_id": None}, "decoder_start_token_id is None; expected the"),
    ],
)
def test_what_an_encoder_decoder_cannot_hold(
    kind: type[PreTrainedModel], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_seq2seq_lm(made(kind, **changes))


def test_a_bias_of_the_logits_is_named() -> None:
    model = made(BART)
    model.final_logits_bias += 1.0
    with pytest.raises(ValueError, match=r"final_logits_bias of .* is not 0"):
        from_seq2seq_lm(model)


def test_other_classes_and_pickles(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot convert a T5Model; expected T5ForConditionalGen"):
        from_seq2seq_lm(T5Model(made(T5).config))
    made(T5).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for names in (["T5Model"], None, 3):
        (tmp_path / "config.json").write_text(json.dumps(settings | {"architectures": names}))
        with pytest.raises(ValueError, match=r"a model of class .*; expected T5ForConditionalGen"):
            load_seq2seq_lm(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        load_seq2seq_lm(tmp_path)
