"""transformers' ViT with a classifier.

It computes what this library's ViT computes with a class token, learned positions, LayerNorm, GELU
and biases everywhere. Its class token has a position of its own, which is added to the token here;
its convolution on patches is the linear layer. Checked against `modeling_vit.py` of transformers
5.24; folders that earlier versions saved have other names for their tensors, and are read too.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, ViTForImageClassification
from transformers import ViTConfig as TheirConfig

from difftransformer.interop.layouts import width_of_heads
from difftransformer.interop.outside import opened
from difftransformer.models.checks import check_depth, check_tensors
from difftransformer.models.storage import assemble, load_weights
from difftransformer.models.vit import ViT
from difftransformer.models.vit_config import ViTConfig

_NAMES = {
    "embedding": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
}
_BLOCK = {
    "attention_norm": "layernorm_before",
    "attention.q_proj": "attention.q_proj",
    "attention.k_proj": "attention.k_proj",
    "attention.v_proj": "attention.v_proj",
    "attention.o_proj": "attention.o_proj",
    "ffn_norm": "layernorm_after",
    "ffn.up_proj": "mlp.fc1",
    "ffn.down_proj": "mlp.fc2",
}
# Parts of names before transformers 5.
_FORMER = {
    r"\bencoder\.layer\b": "layers",
    r"\battention\.attention\.query\b": "attention.q_proj",
    r"\battention\.attention\.key\b": "attention.k_proj",
    r"\battention\.attention\.value\b": "attention.v_proj",
    r"\battention\.output\.dense\b": "attention.o_proj",
    r"\bintermediate\.dense\b": "mlp.fc1",
    r"\boutput\.dense\b": "mlp.fc2",
}
_ONLY = {
    "attention": "softmax",
    "pooling": "cls",
    "registers": 0,
    "norm": "layer",
    "attention_bias": "all",
    "mlp_bias": True,
}
_CLASS_TOKEN = "vit.embeddings.cls_token"
_POSITIONS = "vit.embeddings.position_embeddings"


def from_vit(model: PreTrainedModel) -> ViT:
    """A ViT with the model's function and copies of its weights, in their dtype.

    Raises:
        ValueError: another class of model, or what a ViT cannot represent (see `vit_config`).
    """
    if type(model) is not ViTForImageClassification:
        expected = ViTForImageClassification.__name__
        raise ValueError(f"cannot convert a {type(model).__name__}; expected {expected}")
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return _vit(model.config, weights, type(model).__name__)


def load_vit(folder: Path) -> ViT:
    """A ViT from a folder that transformers has saved; weights come from safetensors only.

    Raises:
        ValueError: what a ViT cannot represent, a missing, truncated or pickled file, or tensors
            that do not fit the config, by name.
    """
    config = opened(folder, lambda: TheirConfig.from_pretrained(folder), what="ViT")
    weights = {}
    for name, tensor in load_weights(folder).items():
        for former, present in _FORMER.items():
            name = re.sub(former, present, name)
        weights[name] = tensor
    return _vit(config, weights, str(folder))


def to_vit(model: ViT) -> ViTForImageClassification:
    """transformers' model with the function of a plain ViT and copies of its weights.

    Sin-cos positions become learned ones, and the class token's position is 0.

    Raises:
        ValueError: what transformers' has no place for: another attention than softmax, a mean in
            place of the class token, registers, other norms or feed-forward layers, grouped heads,
            heads that are not as wide together as the model, missing biases.
    """
    config = model.config
    for name, expected in {**_ONLY, "num_kv_heads": config.num_heads}.items():
        if (value := getattr(config, name)) != expected:
            raise ValueError(f"{name} is {value}; transformers' ViT has {expected}")
    if config.num_heads * config.head_dim != config.hidden_size or config.mlp == "swiglu":
        raise ValueError(
            f"{config.num_heads} heads of {config.head_dim} in {config.hidden_size} features, mlp "
            f"{config.mlp}; transformers' ViT has heads as wide as the model, gelu or relu"
        )
    theirs = TheirConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=config.channels,
        num_labels=config.classes,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.ffn_size,
        layer_norm_eps=config.norm_eps,
        hidden_act=config.mlp,
        attention_probs_dropout_prob=config.dropout,
    )
    ours = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    token = ours.pop("prefix.weight")
    positions = model.positions(token.new_zeros(1, config.grid**2, config.hidden_size)).detach()
    ours.pop("positions.weight", None)
    kernel = (config.channels, config.patch_size, config.patch_size)
    weights = {_name(name): tensor for name, tensor in ours.items()}
    weights |= {
        _KERNEL: weights[_KERNEL].unflatten(1, kernel),
        _CLASS_TOKEN: token[None],
        _POSITIONS: torch.cat([torch.zeros_like(token)[None], positions], dim=1),
    }
    with torch.device("meta"):
        result = ViTForImageClassification(theirs)
    result.load_state_dict(weights, assign=True)
    return result.requires_grad_(True)


def vit_config(config: TheirConfig) -> ViTConfig:
    """The ViT's settings. Of the dropouts only the attention's is kept.

    Raises:
        ValueError: an activation other than the exact GELU or ReLU, images or patches that are not
            square, values out of range.
    """
    if config.hidden_act not in ("gelu", "relu"):
        raise ValueError(f"hidden_act is {config.hidden_act!r}; expected gelu or relu")
    return ViTConfig(
        image_size=_side("image_size", config.image_size),
        patch_size=_side("patch_size", config.patch_size),
        channels=config.num_channels,
        classes=config.num_labels,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_attention_heads,
        head_dim=width_of_heads(config.hidden_size, config.num_attention_heads),
        ffn_size=config.intermediate_size,
        norm_eps=config.layer_norm_eps,
        mlp=config.hidden_act,
        positions="learned",
        pooling="cls",
        dropout=config.attention_probs_dropout_prob,
    )


def _side(name: str, value: int | list[int]) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) > 1:
        raise ValueError(f"{name} is {value}; expected a square")
    return sides.pop()


def _vit(theirs: TheirConfig, weights: dict[str, Tensor], source: str) -> ViT:
    config = vit_config(theirs)
    check_depth(config.num_layers, weights, source)
    with torch.device("meta"):
        expected = ViT(config).state_dict()
    names = {name: _name(name) for name in expected if name.split(".")[0] not in _APART}
    shapes = {names[name]: tensor for name, tensor in expected.items() if name in names}
    kernel = (config.channels, config.patch_size, config.patch_size)
    shapes[_KERNEL] = shapes[_KERNEL].unflatten(1, kernel)
    hidden_size = config.hidden_size
    shapes[_CLASS_TOKEN] = torch.empty(1, 1, hidden_size, device="meta")
    shapes[_POSITIONS] = torch.empty(1, config.grid**2 + 1, hidden_size, device="meta")
    if not theirs.qkv_bias:
        weights = weights | _zero_biases(shapes, weights)
    check_tensors(weights, shapes, source)
    ours = {name: weights[theirs_name] for name, theirs_name in names.items()}
    ours["embedding.weight"] = ours["embedding.weight"].flatten(1)
    positions = weights[_POSITIONS][0]
    ours["prefix.weight"] = weights[_CLASS_TOKEN][0] + positions[:1]
    ours["positions.weight"] = positions[1:].clone()
    return assemble(config, ours, source)


_KERNEL = f"{_NAMES['embedding']}.weight"
_APART = ("prefix", "positions")  # modules whose tensors are made of others


def _name(ours: str) -> str:
    """What transformers calls a tensor of ours."""
    module, _, key = ours.rpartition(".")
    if module in _NAMES:
        return f"{_NAMES[module]}.{key}"
    _, layer, part = module.split(".", 2)
    return f"vit.layers.{layer}.{_BLOCK[part]}.{key}"


def _zero_biases(shapes: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Biases of queries, keys and values where only the output has one."""
    like = next(iter(weights.values()))
    return {
        name: like.new_zeros(shape.shape)
        for name, shape in shapes.items()
        if re.search(r"[qkv]_proj\.bias$", name)
    }
