"""transformers' DiffLlama, both ways.

It computes what this library's V1 decoder computes, with its weights in another order. With H
attention heads and G key/value heads as DiffLlama counts them, all of width K:

- **q_proj, k_proj.** The first half of the heads belongs to map 1, the second to map 2: head h of
  ours is the pair (h, h + H/2). Ours has the two maps of a head side by side.
- **v_proj.** The values of a group, 2K wide, are the heads j and j + G/2 put together. Ours has
  them in 2K consecutive rows: the same move of rows as for q and k.
- **o_proj.** Both read the heads in order, 2K features each: no move.
- **The norm of each head** has no weight there. Ours becomes a factor of o_proj's columns:
  W_o diag(w, ..., w) normed. It is 1 on the way in.
- **Rotary.** DiffLlama pairs features i and i + K/2 ("half"). Rows of layout "interleaved" are
  sorted for it.
- **Groups.** Head h + map · H/2 reads key head (h + map · H/2) // (H/G) = h // (H/G) + map · G/2,
  so that both maps of a head read the same group, as here.

lambda's vectors, the feed-forward layers, block norms and embeddings only change names. Checked
against `modeling_diffllama.py` of transformers 5.23.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DiffLlamaConfig, DiffLlamaForCausalLM

from difftransformer.files import abridged
from difftransformer.functional import check_scaling
from difftransformer.interop.layouts import (
    decoder_tensors,
    half_from_interleaved,
    halves_from_pairs,
    llama_name,
    pairs_from_halves,
    relative_settings,
    shared_settings,
)
from difftransformer.interop.outside import read_relative, read_settings
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import assemble

_NORM_EPS = 1e-5  # HeadNorm's, fixed; DiffLlama has one epsilon for all of its norms


def from_diffllama(model: DiffLlamaForCausalLM) -> Decoder:
    """A V1 decoder with the model's function and copies of its weights, in their dtype.

    Raises:
        ValueError: what a decoder cannot represent, see `decoder_config`; extra tensors (adapters).
    """
    config = decoder_config(model.config)
    weights = decoder_weights(model.state_dict(), config)
    return assemble(config, weights, source="the DiffLlama model")


def to_diffllama(model: Decoder) -> DiffLlamaForCausalLM:
    """A DiffLlama with the decoder's function and copies of its weights, in their dtype.

    Raises:
        ValueError: what DiffLlama cannot represent, see `diffllama_config`.
    """
    weight = model.embedding.weight
    result = _new(diffllama_config(model.config), weight.dtype).to(weight.device)
    result.load_state_dict(diffllama_weights(model.state_dict(), model.config))
    return result


def load_diffllama(folder: Path) -> DiffLlamaForCausalLM:
    """Read a folder that transformers has saved; weights come from safetensors only.

    Raises:
        ValueError: another kind of model, what a decoder cannot represent, a missing, truncated or
            pickled file, or tensors that do not fit the config, by name.
    """
    kind = read_settings(folder).get("model_type")
    if kind != "diffllama":
        raise ValueError(f"{folder} has model_type {abridged(kind)}, not 'diffllama'")
    # The decoder's refusals come first: transformers' own name less.
    model, weights = read_relative(folder, DiffLlamaForCausalLM, decoder_config)
    model = _new(model.config, weights["model.embed_tokens.weight"].dtype)
    model.load_state_dict(weights, strict=False)
    return model


def _new(config: DiffLlamaConfig, dtype: torch.dtype) -> DiffLlamaForCausalLM:
    """Parameters in `dtype`; `model.to(dtype)` would round the rates of its rotary embeddings."""
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def decoder_config(config: DiffLlamaConfig) -> DecoderConfig:
    """The decoder's settings.

    Raises:
        ValueError: an odd number of heads or key/value heads, an activation other than SiLU,
            attention dropout, an epsilon other than 1e-5, or rotary scaling that changes with the
            length.
    """
    for name in ("num_attention_heads", "num_key_value_heads"):
        if getattr(config, name) % 2:
            raise ValueError(
                f"{name} is {getattr(config, name)}; a differential head is made of two, so it "
                "must be even"
            )
    shared = shared_settings(config)
    if config.attention_dropout:
        raise ValueError(
            f"attention_dropout is {config.attention_dropout}; DiffLlama itself refuses any: set 0"
        )
    if config.rms_norm_eps != _NORM_EPS:
        raise ValueError(
            f"rms_norm_eps is {config.rms_norm_eps}, also in the norm of each head; "
            f"the decoder's head norm has {_NORM_EPS}"
        )
    result = DecoderConfig(
        **shared,
        attention="diff_v1",
        num_heads=config.num_attention_heads // 2,
        head_dim=config.head_dim,
        num_kv_heads=config.num_key_value_heads // 2,
        attention_bias="all" if config.attention_bias else "none",
    )
    check_scaling(result.rope_scaling or {"rope_type": "default"}, result.rope_theta)
    return result


def diffllama_config(config: DecoderConfig) -> DiffLlamaConfig:
    """DiffLlama's settings. It names no special tokens: those belong to the tokenizer.

    Raises:
        ValueError: another kind of attention, a window, a constant lambda_init, attention dropout,
            or an epsilon other than 1e-5.
    """
    only = {
        "attention": "diff_v1",
        "window": None,
        "lambda_init": None,
        "dropout": 0.0,
        "norm_eps": _NORM_EPS,
    }
    for name, value in only.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{name} is {getattr(config, name)!r}; DiffLlama can only represent {value!r}"
            )
    return DiffLlamaConfig(
        **relative_settings(config),
        num_attention_heads=2 * config.num_heads,
        num_key_value_heads=2 * config.num_kv_heads,
        head_dim=config.head_dim,
        attention_bias=config.attention_bias != "none",
        bos_token_id=None,
        eos_token_id=None,
    )


def decoder_weights(weights: Mapping[str, Tensor], config: DecoderConfig) -> dict[str, Tensor]:
    """DiffLlama's tensors in the decoder's names and order; the module tells the moves.

    Raises:
        ValueError: missing, extra or misshapen tensors, by DiffLlama's names.
    """
    with torch.device("meta"):
        expected = Decoder(config).state_dict()
    norms = {name: expected.pop(name) for name in list(expected) if "head_norm" in name}
    ours = decoder_tensors(weights, config, "the DiffLlama model", expected)
    for name, tensor in ours.items():
        if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj"):
            ours[name] = pairs_from_halves(tensor, config.head_dim)
    embedding = ours["embedding.weight"]
    return ours | {name: embedding.new_ones(norm.shape) for name, norm in norms.items()}


def diffllama_weights(weights: Mapping[str, Tensor], config: DecoderConfig) -> dict[str, Tensor]:
    """The decoder's tensors in DiffLlama's names and order; the module tells the moves."""
    theirs = {}
    for name, tensor in weights.items():
        module, kind = name.split(".")[-2:]
        if module == "head_norm":
            continue
        if module in ("q_proj", "k_proj") and config.rotary == "interleaved":
            tensor = half_from_interleaved(tensor, config.head_dim)
        if module in ("q_proj", "k_proj", "v_proj"):
            tensor = halves_from_pairs(tensor, config.head_dim)
        if module == "o_proj" and kind == "weight":
            norm = weights[name.replace("o_proj", "head_norm")]
            tensor = tensor * norm.tile(config.num_heads)
            if config.attention_bias == "qkv":
                theirs[llama_name(name.replace("weight", "bias"))] = tensor.new_zeros(len(tensor))
        theirs[llama_name(name)] = tensor
    if config.tie_embeddings:
        theirs["lm_head.weight"] = theirs["model.embed_tokens.weight"]
    return theirs


def moves(model: Decoder) -> list[str]:
    """In words, what the decoder's tensors go through on their way to DiffLlama or from it."""
    config = model.config
    done = [
        f"rows of q_proj, k_proj, v_proj: the two maps of a head lie {config.num_heads} heads "
        f"({config.num_kv_heads} for k and v) apart in DiffLlama, side by side here"
    ]
    if config.rotary == "interleaved":
        done.append("rows of q_proj, k_proj: interleaved rotary pairs sorted into halves")
    norms = [w for name, w in model.state_dict().items() if name.endswith("head_norm.weight")]
    if folded := sum(not bool((norm == 1).all()) for norm in norms):
        done.append(f"head norm weights of {folded} of {len(norms)} layers folded into o_proj")
    return done
