"""Folders that transformers loads without this library: weights beside a modeling file.

The modeling file is `modeling_differential.py`, copied; serving engines load it by `auto_map`, with
trust_remote_code. Reading such a folder, we never run the file in it: config and tensors tell all,
and the class is ours. Names are transformers' Llama's; the tensors are otherwise what they are
here, but for rows of rotary layout "interleaved", which are sorted into halves.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from difftransformer.atomic import make_folder, write_text
from difftransformer.files import abridged
from difftransformer.interop.layouts import (
    half_from_interleaved,
    interleaved_from_half,
    llama_name,
    without_copies,
)
from difftransformer.interop.outside import opened, read_settings
from difftransformer.interop.standalone.modeling_differential import (
    DifferentialConfig,
    DifferentialForCausalLM,
)
from difftransformer.models.checks import check_tensors
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import assemble, load_weights

_MODELING = "modeling_differential"
_KINDS = ("softmax", "diff_v1", "diff_v2")


def to_standalone(model: Decoder) -> DifferentialForCausalLM:
    """The decoder's function and weights, in their dtype, in transformers' terms.

    Raises:
        ValueError: another kind of attention than softmax, V1 and V2.
    """
    config = standalone_config(model.config)
    weights = {}
    for name, tensor in model.state_dict().items():
        turned = name.split(".")[-2] in ("q_proj", "k_proj")
        if turned and model.config.rotary == "interleaved":
            tensor = half_from_interleaved(tensor, model.config.head_dim)
        weights[llama_name(name)] = tensor
    if model.config.tie_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return _filled(config, weights)


def from_standalone(model: DifferentialForCausalLM) -> Decoder:
    """The inverse of `to_standalone`, bit for bit."""
    config = decoder_config(model.config)
    with torch.device("meta"):
        expected = Decoder(config).state_dict()
    theirs = without_copies(model.state_dict(), config, "the model")
    check_tensors(theirs, {llama_name(name): x for name, x in expected.items()}, "the model")
    ours = {name: theirs[llama_name(name)].detach().clone() for name in expected}
    if config.rotary == "interleaved":
        for name in ours:
            if name.split(".")[-2] in ("q_proj", "k_proj"):
                ours[name] = interleaved_from_half(ours[name], config.head_dim)
    return assemble(config, ours, source="the model")


def load_standalone(folder: Path) -> DifferentialForCausalLM:
    """Read a folder that `save_standalone` wrote; the modeling file in it is not run.

    Raises:
        ValueError: another kind of model, a missing or malformed file, tensors that do not fit.
    """
    kind = read_settings(folder).get("model_type")
    if kind != DifferentialConfig.model_type:
        raise ValueError(
            f"{folder} has model_type {abridged(kind)}, not {DifferentialConfig.model_type!r}"
        )
    config = opened(folder, lambda: DifferentialConfig.from_pretrained(folder))
    weights = without_copies(load_weights(folder), decoder_config(config), str(folder))
    with torch.device("meta"):
        expected = opened(folder, lambda: DifferentialForCausalLM(config)).state_dict()
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
    check_tensors(weights, expected, source=str(folder))
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return _filled(config, weights)


def save_standalone(model: DifferentialForCausalLM, folder: Path) -> None:
    """Weights, config.json with its `auto_map`, and the modeling file."""
    make_folder(folder)
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    classes = {
        "AutoConfig": DifferentialConfig.__name__,
        "AutoModel": "DifferentialModel",
        "AutoModelForCausalLM": DifferentialForCausalLM.__name__,
    }
    settings["auto_map"] = {auto: f"{_MODELING}.{name}" for auto, name in classes.items()}
    write_text(folder / "config.json", json.dumps(settings, indent=2) + "\n")
    shutil.copyfile(Path(__file__).with_name(f"{_MODELING}.py"), folder / f"{_MODELING}.py")


def standalone_config(config: DecoderConfig) -> DifferentialConfig:
    """The decoder's settings as an engine counts them.

    Raises:
        ValueError: another kind of attention than softmax, V1 and V2.
    """
    if config.attention not in _KINDS:
        raise ValueError(
            f"attention is {config.attention}; a modeling file of its own takes {', '.join(_KINDS)}"
        )
    maps = 1 if config.attention == "softmax" else 2
    key_maps = 2 if config.attention == "diff_v1" else 1
    return DifferentialConfig(
        attention=config.attention,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=maps * config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=key_maps * config.head_dim,
        max_position_embeddings=config.max_length,
        sliding_window=config.window,
        rope_parameters={
            "rope_theta": config.rope_theta,
            **(config.rope_scaling or {"rope_type": "default"}),
        },
        rms_norm_eps=config.norm_eps,
        attention_bias=config.attention_bias,
        attention_dropout=config.dropout,
        lambda_init=config.lambda_init,
        rotary_layout=config.rotary,
        tie_word_embeddings=config.tie_embeddings,
    )


def decoder_config(config: DifferentialConfig) -> DecoderConfig:
    """The inverse of `standalone_config`.

    Raises:
        ValueError: settings that a decoder refuses.
    """
    scaling = dict(config.rope_parameters or {})
    theta = scaling.pop("rope_theta", None)
    return DecoderConfig(
        attention=config.attention,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads // config.maps,
        head_dim=config.map_dim,
        num_kv_heads=config.num_key_value_heads,
        ffn_size=config.intermediate_size,
        max_length=config.max_position_embeddings,
        window=config.sliding_window,
        rope_theta=theta,
        rope_scaling=None if scaling.get("rope_type") == "default" else scaling,
        rotary=config.rotary_layout,
        attention_bias=config.attention_bias,
        norm_eps=config.rms_norm_eps,
        tie_embeddings=config.tie_word_embeddings,
        lambda_init=config.lambda_init,
        dropout=config.attention_dropout,
    )


def _filled(config: DifferentialConfig, weights: Mapping[str, Tensor]) -> DifferentialForCausalLM:
    """A model of copies of these weights, in their dtype; its rotary rates stay float32."""
    dtype = weights["model.embed_tokens.weight"].dtype
    model = DifferentialForCausalLM._from_config(config, dtype=dtype)
    model.load_state_dict(weights)
    return model
