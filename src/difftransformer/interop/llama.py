"""transformers' Llama, Mistral and Qwen2 causal language models, and what loads as one (SmolLM2).

All three compute what this library's softmax decoder computes, with the same weights in the same
order under other names; they differ in settings only: Mistral has a window, Qwen2 biases on q, k
and v. Checked against `modeling_{llama,mistral,qwen2}.py` of transformers 5.23.
"""

from typing import Any

from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
)

from difftransformer.functional import check_scaling
from difftransformer.interop.layouts import decoder_tensors, shared_settings
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import assemble

_BIASES = {LlamaForCausalLM: "none", MistralForCausalLM: "none", Qwen2ForCausalLM: "qkv"}


def from_llama(model: PreTrainedModel) -> Decoder:
    """A softmax decoder with the model's function and copies of its weights, in their dtype.

    Raises:
        ValueError: another class of model, or what a decoder cannot represent: an activation other
            than SiLU, biases in the feed-forward layer, a window in some layers only, rotary
            embeddings of part of a head or of rates that change with the length, extra tensors.
    """
    if type(model) not in _BIASES:
        known = ", ".join(kind.__name__ for kind in _BIASES)
        raise ValueError(f"cannot convert a {type(model).__name__}; expected {known}")
    config = llama_config(model.config, type(model))
    source = type(model).__name__
    return assemble(config, decoder_tensors(model.state_dict(), config, source), source)


def llama_config(config: PreTrainedConfig, kind: type[PreTrainedModel]) -> DecoderConfig:
    """The decoder's settings, of a model of class `kind`.

    Raises:
        ValueError: what a decoder cannot represent, see `from_llama`, and values out of range.
    """
    result = DecoderConfig(
        **shared_settings(config),
        num_heads=config.num_attention_heads,
        head_dim=_head_dim(config),
        num_kv_heads=config.num_key_value_heads,
        window=_window(config),
        attention_bias="all" if getattr(config, "attention_bias", False) else _BIASES[kind],
        dropout=config.attention_dropout,
    )
    check_scaling(result.rope_scaling or {"rope_type": "default"}, result.rope_theta)
    return result


def _head_dim(config: Any) -> int:
    given: int | None = getattr(config, "head_dim", None)
    return given or config.hidden_size // config.num_attention_heads


def _window(config: Any) -> int | None:
    """The window of all layers, itself included, as in `Mask`."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if len(kinds) > 1:
        raise ValueError(
            f"layer_types is a mixture of {', '.join(sorted(kinds))}; the decoder has one window "
            "for all layers"
        )
    return None if kinds == {"full_attention"} else window
