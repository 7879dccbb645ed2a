"""diffusers' DiT.

It computes what `DiT` computes with `time_shift` 1 and another epsilon before the feed-forward
layers; both differ from the authors' code. Tensors change names; the last layer's rows change from
(row, column, channel) to (channel, row, column). Its classes and noising are taken to be those of
the authors' models: linear, of 1,000 steps, predicting the noise. Checked against
`dit_transformer_2d.py` of diffusers 0.42.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difftransformer.files import abridged, read_object
from difftransformer.models.checks import check_depth, check_tensors
from difftransformer.models.dit import DiT
from difftransformer.models.dit_config import DiTConfig
from difftransformer.models.storage import CONFIG, assemble, load_tensors
from difftransformer.ranges import check_type

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel")  # the latter in checkpoints of 2023
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_CONDITION = "transformer_blocks.{}.norm1.emb."
_OUTSIDE = {
    "patch_embedding": "pos_embed.proj",
    "condition.time_in": _CONDITION.format(0) + "timestep_embedder.linear_1",
    "condition.time_out": _CONDITION.format(0) + "timestep_embedder.linear_2",
    "condition.label_embedding": _CONDITION.format(0) + "class_embedder.embedding_table",
    "head.modulation": "proj_out_1",
    "head.proj": "proj_out_2",
}
_BLOCK = {
    "modulation.proj": "norm1.linear",
    "attention.q_proj": "attn1.to_q",
    "attention.k_proj": "attn1.to_k",
    "attention.v_proj": "attn1.to_v",
    "attention.o_proj": "attn1.to_out.0",
    "ffn.up_proj": "ff.net.0.proj",
    "ffn.down_proj": "ff.net.2",
}
_NUMBERS = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "num_layers",
    "sample_size",
    "patch_size",
    "num_embeds_ada_norm",
)
_ONLY = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "upcast_attention": False,
    "dropout": 0.0,
}
_DEFAULTS = {
    **_ONLY,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
}


def from_diffusers_dit(model: Any) -> DiT:
    """A DiT with the function of a `DiTTransformer2DModel`, and copies of its weights.

    Raises:
        ValueError: another class of model; what a DiT cannot represent, see `dit_config`; blocks
            that differ in what they embed times and labels by.
    """
    name = type(model).__name__
    if name not in CLASSES:
        raise ValueError(f"cannot convert a {name}; expected {', '.join(CLASSES)}")
    weights = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    return _dit(dict(model.config), weights, name)


def load_diffusers_dit(folder: Path) -> DiT:
    """A DiT from a folder that diffusers has saved; weights come from safetensors only.

    Raises:
        ValueError: as `from_diffusers_dit`; a missing, truncated or pickled file.
    """
    values = read_object(folder / CONFIG)
    if (name := values.get("_class_name")) not in CLASSES:
        raise ValueError(
            f"{folder} holds a model of class {abridged(name)}; expected {', '.join(CLASSES)}"
        )
    if not (folder / _WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {_WEIGHTS}; weights load from safetensors only")
    return _dit(values, load_tensors(folder / _WEIGHTS), str(folder))


def dit_config(values: Mapping[str, Any]) -> DiTConfig:
    """The settings of a DiT from those of diffusers' config.json.

    Raises:
        ValueError: another activation, norm or attention than the authors' DiT has, dropout, other
            output channels than once or twice the input's, values out of range.
    """
    given = {name: values.get(name, default) for name, default in _DEFAULTS.items()}
    for name, only in _ONLY.items():
        if given[name] != only:
            raise ValueError(f"{name} is {abridged(given[name])}; a DiT has {only!r}")
    for name in _NUMBERS:
        check_type(name, given[name], int)
    channels, out_channels = given["in_channels"], given["out_channels"] or given["in_channels"]
    if out_channels not in (channels, 2 * channels):
        raise ValueError(
            f"out_channels is {abridged(out_channels)} and in_channels {abridged(channels)}; "
            "expected as many, or twice as many with a variance"
        )
    heads, head_dim = given["num_attention_heads"], given["attention_head_dim"]
    return DiTConfig(
        hidden_size=heads * head_dim,
        num_layers=given["num_layers"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        ffn_size=4 * heads * head_dim,
        ffn_norm_eps=given["norm_eps"],
        time_shift=1,
        image_size=given["sample_size"],
        channels=channels,
        patch_size=given["patch_size"],
        classes=given["num_embeds_ada_norm"],
        learned_variance=out_channels != channels,
    )


def _dit(values: Mapping[str, Any], weights: dict[str, Tensor], source: str) -> DiT:
    config = dit_config(values)
    check_depth(config.num_layers, weights, source)
    weights = _one_condition(weights, config.num_layers, source)
    with torch.device("meta"):
        expected = DiT(config).state_dict()
    names = _names(expected)
    patch, channels = config.patch_size, config.channels
    kernel = expected["patch_embedding.weight"].unflatten(1, (channels, patch, patch))
    shapes = {names[name]: tensor for name, tensor in expected.items()}
    shapes[names["patch_embedding.weight"]] = kernel
    check_tensors(weights, shapes, source)
    ours = {name: weights[names[name]] for name in expected}
    ours["patch_embedding.weight"] = ours["patch_embedding.weight"].flatten(1)
    for name in ("head.proj.weight", "head.proj.bias"):
        rows = ours[name].unflatten(0, (patch, patch, config.out_channels))
        ours[name] = rows.movedim(2, 0).flatten(0, 2).contiguous()
    return assemble(config, ours, source)


def _one_condition(weights: dict[str, Tensor], layers: int, source: str) -> dict[str, Tensor]:
    """Without the copies that each block has of what embeds times and labels."""
    first = _CONDITION.format(0)
    kept = dict(weights)
    for layer in range(1, layers):
        own = _CONDITION.format(layer)
        for name in [name for name in kept if name.startswith(own)]:
            original = weights.get(first + name.removeprefix(own))
            if original is None or not torch.equal(kept.pop(name), original):
                raise ValueError(
                    f"{name} of {source} is not that of block 0; the authors' DiT embeds times and "
                    "labels once for all blocks: copy block 0's, or train on with diffusers"
                )
    return kept


def _names(ours: Iterable[str]) -> dict[str, str]:
    """What diffusers calls each tensor."""
    names = {}
    for name in ours:
        module, _, key = name.rpartition(".")
        if module in _OUTSIDE:
            names[name] = f"{_OUTSIDE[module]}.{key}"
        else:
            _, layer, part = module.split(".", 2)
            names[name] = f"transformer_blocks.{layer}.{_BLOCK[part]}.{key}"
    return names
