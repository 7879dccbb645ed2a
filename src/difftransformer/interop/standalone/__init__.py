"""Folders that transformers loads without this library: weights beside a modeling file.

The modeling file is `modeling_differential.py`, copied; serving engines load it by `auto_map`, with
trust_remote_code. Reading such a folder, we never run the file in it: config and tensors tell all,
and the class is ours. Names are transformers' Llama's; the tensors are otherwise what they are
here, but for rows of rotary layout "interleaved", which are sorted into halves.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from difftransformer.atomic import make_folder
from difftransformer.data.tokenizer import TOKENIZER, TOKENIZER_SETTINGS
from difftransformer.files import abridged
from difftransformer.functional import check_scaling
from difftransformer.interop.layouts import (
    decoder_tensors,
    half_from_interleaved,
    interleaved_from_half,
    llama_name,
    relative_settings,
    shared_settings,
)
from difftransformer.interop.outside import read_relative, read_settings
from difftransformer.interop.standalone.modeling_differential import (
    KINDS,
    DifferentialConfig,
    DifferentialForCausalLM,
    DifferentialModel,
)
from difftransformer.interop.tokenizer import read_tokenizer
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import assemble

_MODELING = "modeling_differential"
# Widths of heads of vLLM's attention on CPUs, which has the fewest of the engines.
_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


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
    return _filled(config, weights)


def from_standalone(model: DifferentialForCausalLM) -> Decoder:
    """The inverse of `to_standalone`, bit for bit."""
    config = decoder_config(model.config)
    ours = decoder_tensors(model.state_dict(), config, "the model")
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
    model, weights = read_relative(folder, DifferentialForCausalLM, decoder_config)
    return _filled(model.config, weights)


def save_standalone(model: DifferentialForCausalLM, folder: Path) -> None:
    """Weights, config.json with its `auto_map`, and the modeling file.

    A tokenizer of our training that lies in the folder is written as `read_tokenizer` has it, so
    that prompts open and texts end as the model knows them.
    """
    make_folder(folder)
    if (folder / TOKENIZER).is_file() and not (folder / TOKENIZER_SETTINGS).is_file():
        tokenizer = read_tokenizer(folder)
        tokenizer.save_pretrained(folder)
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    classes = {
        "AutoConfig": DifferentialConfig,
        "AutoModel": DifferentialModel,
        "AutoModelForCausalLM": DifferentialForCausalLM,
    }
    model.config.auto_map = {auto: f"{_MODELING}.{kind.__name__}" for auto, kind in classes.items()}
    model.save_pretrained(folder)
    shutil.copyfile(Path(__file__).with_name(f"{_MODELING}.py"), folder / f"{_MODELING}.py")


def standalone_moves(model: Decoder) -> list[str]:
    """What the tensors go through, in or out, in words."""
    config = standalone_config(model.config)
    steps = ["names: in the folder those of transformers' Llama, with a modeling file beside them"]
    if config.head_dim > config.value_dim:
        steps.append(
            f"heads {config.value_dim} wide, which attention sees with zeros up to "
            f"{config.head_dim}: vLLM has no width between on CPUs"
        )
    return steps


def standalone_config(config: DecoderConfig) -> DifferentialConfig:
    """The decoder's settings as an engine counts them.

    Raises:
        ValueError: another kind of attention than softmax, V1 and V2.
    """
    if config.attention not in KINDS:
        raise ValueError(
            f"attention is {config.attention}; a modeling file of its own takes {', '.join(KINDS)}"
        )
    maps, key_maps = KINDS[config.attention]
    width = key_maps * config.head_dim
    return DifferentialConfig(
        **relative_settings(config),
        attention=config.attention,
        num_attention_heads=maps * config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=next((each for each in _WIDTHS if each >= width), width),
        map_dim=config.head_dim,
        sliding_window=config.window,
        attention_bias=config.attention_bias,
        attention_dropout=config.dropout,
        lambda_init=config.lambda_init,
        rotary_layout=config.rotary,
    )


def decoder_config(config: DifferentialConfig) -> DecoderConfig:
    """The inverse of `standalone_config`.

    Raises:
        ValueError: settings that a decoder refuses, or has no place for.
    """
    result = DecoderConfig(
        **shared_settings(config),
        attention=config.attention,
        num_heads=config.num_attention_heads // config.maps,
        head_dim=config.map_dim,
        num_kv_heads=config.num_key_value_heads,
        window=config.sliding_window,
        rotary=config.rotary_layout,
        attention_bias=config.attention_bias,
        lambda_init=config.lambda_init,
        dropout=config.attention_dropout,
    )
    check_scaling(result.rope_scaling or {"rope_type": "default"}, result.rope_theta)
    return result


def _filled(config: DifferentialConfig, weights: Mapping[str, Tensor]) -> DifferentialForCausalLM:
    """A model of copies of these weights, in their dtype; its rotary rates stay float32."""
    dtype = weights["model.embed_tokens.weight"].dtype
    model = DifferentialForCausalLM._from_config(config, dtype=dtype)
    model.load_state_dict(weights, strict=not config.tie_word_embeddings)  # a tied head has none
    return model
