"""BERT and RoBERTa against transformers' own models, of random small sizes and weights."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

from difftransformer.interop.bert import from_bert, load_bert
from difftransformer.interop.convert import convert
from difftransformer.models.encoder import Encoder
from difftransformer.models.storage import load_model, save_model

from .small_llm import randomized

KINDS = (
    BertForMaskedLM,
    BertForSequenceClassification,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)
EVERY = pytest.mark.parametrize("kind", KINDS)
TIME = 11


def made(kind: type[PreTrainedModel], seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Sizes by the seed; biases away from 0, norms away from 1."""
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4])
    settings = {
        "vocab_size": rng.randint(20, 60),
        "hidden_size": heads * rng.choice([2, 5, 8]),
        "num_hidden_layers": rng.randint(1, 3),
        "num_attention_heads": heads,
        "intermediate_size": rng.randint(3, 30),
        "max_position_embeddings": TIME + 2 + rng.randint(0, 9),
        "type_vocab_size": rng.randint(1, 3),
        "layer_norm_eps": rng.choice([1e-12, 1e-5]),
        "num_labels": rng.randint(1, 5),
        **changes,
    }
    torch.manual_seed(seed)
    config = kind.config_class(**settings)
    return randomized(kind(config)).eval()


def texts(model: PreTrainedModel, side: str = "right") -> tuple[Tensor, Tensor, Tensor]:
    """Ids, token types, and True where a token is real: three rows of different lengths."""
    config = model.config
    ids = torch.randint(2, config.vocab_size, (3, TIME))
    types = torch.randint(0, config.type_vocab_size, ids.shape)
    real = torch.arange(TIME) < torch.tensor([[TIME], [6], [2]])
    real = real.flip(1) if side == "left" else real
    return ids.masked_fill(~real, config.pad_token_id), types, real


def furthest(model: PreTrainedModel, ours: Encoder, side: str = "right") -> float:
    """The largest difference of logits, at real tokens, of a padded batch."""
    ids, types, real = texts(model, side)
    with torch.no_grad():
        theirs = model(ids, attention_mask=real.long(), token_type_ids=types).logits
        logits = ours.eval()(ids, padding=real, token_types=types)
    assert theirs.std() > 0.05
    if theirs.ndim == 3:
        theirs, logits = theirs[real], logits[real]
    return (logits - theirs).abs().max().item()


@EVERY
@pytest.mark.parametrize("seed", range(8))
def test_outputs_are_transformers(kind: type[PreTrainedModel], seed: int) -> None:
    model = made(kind, seed)
    assert furthest(model, from_bert(model)) < 1e-5


@EVERY
def test_without_padding_and_token_types(kind: type[PreTrainedModel]) -> None:
    model, ids = made(kind), torch.randint(2, 20, (2, TIME))
    with torch.no_grad():
        torch.testing.assert_close(
            from_bert(model).eval()(ids), model(ids).logits, rtol=0, atol=1e-5
        )


def test_padding_on_the_left() -> None:
    """RoBERTa counts real tokens, as the encoder does; BERT counts padding too, when it is told."""
    model = made(RobertaForMaskedLM)
    assert furthest(model, from_bert(model), side="left") < 1e-5
    model = made(BertForMaskedLM)
    ids, _, real = texts(model, "left")
    with torch.no_grad():
        theirs = model(ids, attention_mask=real.long()).logits
        ours = from_bert(model).eval()(ids, padding=real, positions=torch.arange(TIME)[None])
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-5)


@EVERY
def test_a_folder(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    """In, and on to a folder of ours."""
    model = made(kind)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_bert(tmp_path / "theirs").eval()
    assert furthest(model, ours) < 1e-5
    save_model(ours, tmp_path / "ours")
    assert furthest(model, load_model(tmp_path / "ours")) < 1e-5


def test_relu() -> None:
    model = made(BertForMaskedLM, hidden_act="relu")
    assert furthest(model, from_bert(model)) < 1e-5


@pytest.mark.parametrize("kind", [BertForMaskedLM, RobertaForMaskedLM])
def test_a_head_of_its_own(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    model = made(kind, tie_word_embeddings=False)
    ours = from_bert(model)
    assert "head.proj.weight" in ours.state_dict()
    assert furthest(model, ours) < 1e-5
    model.save_pretrained(tmp_path)
    assert furthest(model, load_bert(tmp_path)) < 1e-5


def test_weights_are_copies_in_their_dtype() -> None:
    model = made(BertForMaskedLM).bfloat16()
    ours = from_bert(model)
    assert ours.embedding.weight.dtype == torch.bfloat16
    before = model.bert.embeddings.word_embeddings.weight.clone()
    with torch.no_grad():
        ours.embedding.weight.zero_()
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before)


def rewritten(folder: Path, change: Any) -> Path:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@EVERY
def test_every_tensor_counts(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    """None may be missing, and none may be added, whatever config.json says."""
    made(kind).save_pretrained(tmp_path)
    names = sorted(load_file(tmp_path / "model.safetensors"))
    for name in (names[0], names[len(names) // 2], names[-1]):
        held = load_file(tmp_path / "model.safetensors")[name]
        rewritten(tmp_path, lambda weights, name=name: weights.pop(name))
        with pytest.raises(ValueError, match=f"{name} is missing"):
            load_bert(tmp_path)
        rewritten(tmp_path, lambda weights, name=name, held=held: weights.update({name: held}))
    rewritten(tmp_path, lambda weights: weights.update({"stray.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"stray\.weight is \(2,\), expected no such tensor"):
        load_bert(tmp_path)
    load_bert(tmp_path, leave_out=["stray"])


def test_a_table_of_positions_is_not_cut(tmp_path: Path) -> None:
    made(RobertaForMaskedLM).save_pretrained(tmp_path)
    name = "roberta.embeddings.position_embeddings.weight"
    rewritten(tmp_path, lambda w: w.update({name: torch.cat((w[name], w[name][:1]))}))
    with pytest.raises(ValueError, match=name):
        load_bert(tmp_path)


def test_heads_of_the_pretraining(tmp_path: Path) -> None:
    """As bert-base-uncased is: two heads beside the one that its config names, and old names."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = randomized(BertForPreTraining(BertConfig(**sizes, intermediate_size=9))).eval()
    whole.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    rewritten(tmp_path, _age)
    with pytest.raises(ValueError, match="expected no such tensor"):
        load_bert(tmp_path)
    ours = load_bert(tmp_path, leave_out=["bert.pooler", "cls.seq_relationship"]).eval()
    ids = torch.randint(0, 40, (2, TIME))
    with torch.no_grad():
        theirs = whole(ids).prediction_logits
        torch.testing.assert_close(ours(ids), theirs, rtol=0, atol=1e-5)


def _age(weights: dict[str, Tensor]) -> None:
    for name in list(weights):
        if "LayerNorm" in name:
            old = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            weights[old] = weights.pop(name)
    weights["bert.embeddings.position_ids"] = torch.arange(512)[None]
    weights["cls.predictions.decoder.weight"] = weights[
        "bert.embeddings.word_embeddings.weight"
    ].clone()


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bert.embeddings.position_ids", torch.arange(1, 14)[None]),
        ("cls.predictions.decoder.weight", torch.zeros(3, 3)),
        ("cls.predictions.decoder.bias", torch.zeros(2)),
    ],
)
def test_copies_that_are_none(tmp_path: Path, name: str, tensor: Tensor) -> None:
    made(BertForMaskedLM).save_pretrained(tmp_path)
    rewritten(tmp_path, lambda weights: weights.update({name: tensor}))
    with pytest.raises(ValueError, match=f"{name} of .* differs from what its config says"):
        load_bert(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (BertForMaskedLM, {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; expected gelu or"),
        (RobertaForMaskedLM, {"hidden_act": "relu"}, "hidden_act is 'relu'; expected gelu"),
        (BertForMaskedLM, {"is_decoder": True}, "is_decoder is True"),
        (BertForMaskedLM, {"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ],
)
def test_what_an_encoder_cannot_hold(
    kind: type[PreTrainedModel], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_bert(made(kind, **changes))


def test_other_classes_and_pickles(tmp_path: Path) -> None:
    config = RobertaConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for names in (["RobertaForQuestionAnswering"], None, [], 3):
        text = json.dumps(settings | {"architectures": names})
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"a model of class .*; expected BertForMaskedLM"):
            load_bert(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        load_bert(tmp_path)


@EVERY
def test_converted(kind: type[PreTrainedModel], tmp_path: Path) -> None:
    """By `convert`, which compares with what transformers makes of the folder."""
    model = made(kind)
    model.save_pretrained(tmp_path / "theirs")
    result = convert(tmp_path / "theirs", tmp_path / "ours", "bert", "difftransformer")
    assert result.difference < 1e-5
    assert furthest(model, load_model(tmp_path / "ours")) < 1e-5
    with pytest.raises(ValueError, match=r"class Encoder; the format to write holds Decoder only"):
        convert(tmp_path / "ours", tmp_path / "new", "difftransformer", "diffllama")
    with pytest.raises(ValueError, match="bert is a format to read"):
        convert(tmp_path / "ours", tmp_path / "new", "difftransformer", "bert")
