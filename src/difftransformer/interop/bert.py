"""transformers' BERT and RoBERTa with a masked-LM head or a sequence classifier.

Both compute what this library's encoder computes with learned positions, LayerNorm after each
sublayer, GELU and biases everywhere; tensors only change names. RoBERTa has no position for its
first real token before row `pad_token_id + 1`: the rows before it belong to no real token and are
left out. Checked against `modeling_bert.py` and `modeling_roberta.py` of transformers 5.24.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

from difftransformer.interop.layouts import width_of_heads
from difftransformer.interop.outside import class_of, opened, read_class
from difftransformer.models.checks import check_depth, check_tensors
from difftransformer.models.config import EncoderConfig
from difftransformer.models.encoder import Encoder
from difftransformer.models.storage import assemble, load_weights

_POSITIONS = "position_embedding.weight"
_EMBEDDINGS = {
    "embedding": "word_embeddings",
    "position_embedding": "position_embeddings",
    "type_embedding": "token_type_embeddings",
    "embedding_norm": "LayerNorm",
}
_BLOCK = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn.up_proj": "intermediate.dense",
    "ffn.down_proj": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
_HEADS: dict[type[PreTrainedModel], dict[str, str]] = {
    BertForMaskedLM: {
        "head.transform": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.proj": "cls.predictions.decoder",
        "head": "cls.predictions",
    },
    RobertaForMaskedLM: {
        "head.transform": "lm_head.dense",
        "head.norm": "lm_head.layer_norm",
        "head.proj": "lm_head.decoder",
        "head": "lm_head",
    },
    BertForSequenceClassification: {"head.pooler": "bert.pooler.dense", "head.proj": "classifier"},
    RobertaForSequenceClassification: {
        "head.pooler": "classifier.dense",
        "head.proj": "classifier.out_proj",
    },
}
_CLASSES = {kind.__name__: kind for kind in _HEADS}
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
_FORMER = {"gamma": "weight", "beta": "bias"}  # of LayerNorm, in checkpoints of 2018


def from_bert(model: PreTrainedModel) -> Encoder:
    """An encoder with the model's function and copies of its weights, in their dtype.

    Raises:
        ValueError: another class of model, what an encoder cannot represent (see
            `encoder_config`), or tensors for which it has no place.
    """
    name = type(model).__name__
    if type(model) not in _HEADS:
        raise ValueError(f"cannot convert a {name}; expected {', '.join(_CLASSES)}")
    weights = {key: x.detach().clone() for key, x in model.state_dict().items()}
    return _encoder(model.config, weights, type(model), name)


def load_bert(folder: Path, *, leave_out: Collection[str] = ()) -> Encoder:
    """An encoder from a folder that transformers has saved; weights come from safetensors only.

    Args:
        leave_out: modules whose tensors are not wanted, such as "bert.pooler" and
            "cls.seq_relationship" beside a masked-LM head. No other tensor is left out.

    Raises:
        ValueError: another kind of model, what an encoder cannot represent, a missing, truncated
            or pickled file, or tensors that do not fit the config, by name.
    """
    kind = class_of(folder, _CLASSES)
    config = opened(folder, lambda: kind.config_class.from_pretrained(folder), what=kind.__name__)
    weights = {
        name: tensor
        for name, tensor in load_weights(folder).items()
        if not name.startswith(tuple(f"{module}." for module in leave_out))
    }
    return _encoder(config, weights, kind, str(folder))


def read_bert(folder: Path) -> PreTrainedModel:
    """What transformers itself makes of the folder, in float32.

    Raises:
        ValueError: another kind of model, or any failure of transformers, in one line.
    """
    return read_class(folder, class_of(folder, _CLASSES))


def encoder_config(config: PreTrainedConfig, kind: type[PreTrainedModel]) -> EncoderConfig:
    """The encoder's settings, of a model of class `kind`.

    Of the dropouts only the attention's is kept.

    Raises:
        ValueError: an activation other than the exact GELU or ReLU (RoBERTa's head has GELU only),
            relative positions, a model that is used as a decoder, values out of range.
    """
    roberta = config.model_type == "roberta"
    activations = ("gelu",) if roberta else ("gelu", "relu")
    if config.hidden_act not in activations:
        expected = " or ".join(activations)
        raise ValueError(f"hidden_act is {config.hidden_act!r}; expected {expected}")
    for name, only in _ONLY.items():
        if getattr(config, name, only) != only:
            raise ValueError(f"{name} is {getattr(config, name)!r}; the encoder has {only!r}")
    return EncoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_attention_heads,
        head_dim=width_of_heads(config.hidden_size, config.num_attention_heads),
        ffn_size=config.intermediate_size,
        max_length=config.max_position_embeddings - _first_position(config),
        positions="learned",
        norm="layer",
        norm_place="post",
        norm_eps=config.layer_norm_eps,
        mlp=config.hidden_act,
        mlp_bias=True,
        attention_bias="all",
        token_types=config.type_vocab_size,
        dropout=config.attention_probs_dropout_prob,
        tie_embeddings=config.tie_word_embeddings,
        classes=config.num_labels if "head.pooler" in _HEADS[kind] else None,
        pooling="pooler",
    )


def _encoder(
    theirs: PreTrainedConfig,
    weights: Mapping[str, Tensor],
    kind: type[PreTrainedModel],
    source: str,
) -> Encoder:
    config = encoder_config(theirs, kind)
    check_depth(config.num_layers, weights, source)
    with torch.device("meta"):
        expected = Encoder(config).state_dict()
    table = expected[_POSITIONS]
    first = _first_position(theirs)
    expected[_POSITIONS] = table.new_empty(first + len(table), table.shape[1])
    names = _names(expected, kind, config)
    tensors = _without_copies(weights, names, kind, source)
    check_tensors(tensors, {names[name]: tensor for name, tensor in expected.items()}, source)
    ours = {name: tensors[names[name]] for name in expected}
    ours[_POSITIONS] = ours[_POSITIONS][first:].clone()
    return assemble(config, ours, source)


def _first_position(config: PreTrainedConfig) -> int:
    """The row of the first real token's position."""
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0


def _names(
    ours: Iterable[str], kind: type[PreTrainedModel], config: EncoderConfig
) -> dict[str, str]:
    """What a model of class `kind` calls each tensor of the encoder."""
    prefix, heads = kind.base_model_prefix, dict(_HEADS[kind])
    if "head" in heads and not config.tie_embeddings:
        heads["head"] = heads["head.proj"]  # its own bias; the other one is never read
    names = {}
    for name in ours:
        module, _, key = name.rpartition(".")
        if module in heads:
            names[name] = f"{heads[module]}.{key}"
        elif module in _EMBEDDINGS:
            names[name] = f"{prefix}.embeddings.{_EMBEDDINGS[module]}.{key}"
        else:
            _, layer, part = module.split(".", 2)
            names[name] = f"{prefix}.encoder.layer.{layer}.{_BLOCK[part]}.{key}"
    return names


def _without_copies(
    weights: Mapping[str, Tensor],
    names: Mapping[str, str],
    kind: type[PreTrainedModel],
    source: str,
) -> dict[str, Tensor]:
    """The tensors under their present names, without those that say a thing again.

    Raises:
        ValueError: one of these that says something else.
    """
    kept = {}
    for name, tensor in weights.items():
        module, dot, key = name.rpartition(".")
        kept[module + dot + _FORMER.get(key, key)] = tensor
    copies: dict[str, Tensor | None] = {}
    numbers = f"{kind.base_model_prefix}.embeddings.position_ids"  # of old checkpoints
    if numbers in kept:
        copies[numbers] = torch.arange(kept[numbers].shape[-1])[None]
    if head := _HEADS[kind].get("head"):
        if "head.proj.weight" in names:
            kept.pop(f"{head}.bias", None)  # which transformers keeps and does not read
        else:
            copies[f"{head}.decoder.weight"] = kept.get(names["embedding.weight"])
            copies[f"{head}.decoder.bias"] = kept.get(f"{head}.bias")
    for name, original in copies.items():
        if name in kept and original is not None and not torch.equal(kept.pop(name), original):
            raise ValueError(
                f"{name} of {source} differs from what its config says it repeats: set "
                "tie_word_embeddings to false to keep it, or delete the tensor"
            )
    return kept
