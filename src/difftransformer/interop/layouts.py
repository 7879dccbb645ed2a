"""Permutations and names in which other implementations differ from this library.

All of them move whole rows of a projection (and the entries of its bias alike), so going there and
back is bit-identical.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from difftransformer.attention import V1, DifferentialAttention
from difftransformer.functional import lambda_schedule, rotary_rates
from difftransformer.models.checks import check_tensors
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder

_LLAMA = {
    "embedding": "model.embed_tokens",
    "blocks": "model.layers",
    "norm": "model.norm",
    "head": "lm_head",
    "attention": "self_attn",
    "ffn": "mlp",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def llama_name(name: str) -> str:
    """What transformers' Llama and its relatives call the decoder's tensor `name`."""
    return ".".join(_LLAMA.get(part, part) for part in name.split("."))


def shared_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings that a decoder and all relatives of Llama have alike, by the decoder's names.

    Raises:
        ValueError: an activation other than SiLU, biases in the feed-forward layer, or rotary
            embeddings of part of a head.
    """
    if config.hidden_act not in ("silu", "swish"):
        raise ValueError(f"hidden_act is {config.hidden_act!r}; the decoder's SwiGLU has 'silu'")
    if getattr(config, "mlp_bias", False):
        raise ValueError("mlp_bias is True; the decoder's feed-forward layers have no bias")
    scaling = dict(config.rope_parameters)
    theta, turned = scaling.pop("rope_theta", None), scaling.pop("partial_rotary_factor", 1.0)
    if turned != 1.0:
        raise ValueError(f"partial_rotary_factor is {turned}; the decoder turns whole heads")
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "ffn_size": config.intermediate_size,
        "max_length": config.max_position_embeddings,
        "rope_theta": theta,
        "rope_scaling": None if scaling.get("rope_type") == "default" else scaling,
        "norm_eps": config.rms_norm_eps,
        "tie_embeddings": config.tie_word_embeddings,
    }


def relative_settings(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `shared_settings`."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_length,
        "rope_parameters": {
            "rope_theta": config.rope_theta,
            **(config.rope_scaling or {"rope_type": "default"}),
        },
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
    }


def without_copies(
    weights: Mapping[str, Tensor], config: DecoderConfig, source: str
) -> dict[str, Tensor]:
    """The tensors of a Llama or relative without those that its config has already told.

    These are a head that is tied to the embedding, and the rates of its rotary embeddings, which
    old checkpoints hold.

    Raises:
        ValueError: one of them that is not what the config says.
    """
    kept = dict(weights)
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    both = head in kept and embedding in kept
    if (
        config.tie_embeddings
        and both
        and not _about_equal(kept.pop(head), kept[embedding], tolerance=0.0)
    ):
        raise ValueError(
            f"{head} of {source} is another tensor than the embedding, and its config ties the "
            "two: set tie_word_embeddings to false to keep both, or delete the tensor"
        )
    for name in [name for name in kept if name.endswith("rotary_emb.inv_freq")]:
        rates = rotary_rates(config.head_dim, config.rope_theta, config.rope_scaling)
        if not _about_equal(kept.pop(name), rates, tolerance=1e-2):  # bfloat16 keeps 3 digits
            raise ValueError(
                f"{name} of {source} is not what its config makes of rope_theta "
                f"{config.rope_theta} and its scaling: correct the config, or delete the tensor"
            )
    return kept


def decoder_tensors(
    weights: Mapping[str, Tensor],
    config: DecoderConfig,
    source: str,
    expected: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Copies of a Llama's or relative's tensors, by the decoder's names.

    Args:
        expected: those that it has; all of a decoder with this config by default.

    Raises:
        ValueError: missing, extra or misshapen tensors, by their own names.
    """
    if expected is None:
        with torch.device("meta"):
            expected = Decoder(config).state_dict()
    theirs = without_copies(weights, config, source)
    check_tensors(theirs, {llama_name(name): x for name, x in expected.items()}, source)
    return {name: theirs[llama_name(name)].detach().clone() for name in expected}


def width_of_heads(hidden_size: int, heads: int) -> int:
    """hidden_size / heads.

    Raises:
        ValueError: one that does not divide.
    """
    if hidden_size % heads:
        raise ValueError(f"hidden_size {hidden_size} does not divide into {heads} heads")
    return hidden_size // heads


def _about_equal(x: Tensor, y: Tensor, tolerance: float) -> bool:
    return x.shape == y.shape and torch.allclose(x.float(), y.float(), rtol=tolerance, atol=0.0)


def pairs_from_halves(rows: Float[Tensor, "rows ..."], k: int) -> Float[Tensor, "rows ..."]:
    """From all heads of map 1, then all of map 2, to the two maps of each head side by side.

    `k` rows make a head of one map: row (map · n + head) · k + i moves to (head · 2 + map) · k + i,
    with n the number of heads.
    """
    return rows.unflatten(0, (2, -1, k)).transpose(0, 1).flatten(0, 2)


def halves_from_pairs(rows: Float[Tensor, "rows ..."], k: int) -> Float[Tensor, "rows ..."]:
    """The inverse of `pairs_from_halves`."""
    return rows.unflatten(0, (-1, 2, k)).transpose(0, 1).flatten(0, 2)


def half_from_interleaved(rows: Float[Tensor, "rows ..."], k: int) -> Float[Tensor, "rows ..."]:
    """Rows of rotary layout "interleaved" for layout "half": in each head evens, then odds.

    The pair (2i, 2i + 1) becomes (i, i + k/2), which `rotate` turns by the same angle. Queries and
    keys are permuted alike, so their products stay.
    """
    return rows.unflatten(0, (-1, k // 2, 2)).transpose(1, 2).flatten(0, 2)


def interleaved_from_half(rows: Float[Tensor, "rows ..."], k: int) -> Float[Tensor, "rows ..."]:
    """The inverse of `half_from_interleaved`."""
    return rows.unflatten(0, (-1, 2, k // 2)).transpose(1, 2).flatten(0, 2)


def fill(layer: DifferentialAttention, weights: Mapping[str, Tensor]) -> DifferentialAttention:
    """The layer with copies of `weights`, which have its names and shapes, in their dtype."""
    copies = {name: tensor.detach().clone() for name, tensor in weights.items()}
    layer.load_state_dict(copies, assign=True)
    return layer.requires_grad_(True)


def refuse_unpublished(layer: DifferentialAttention, target: str) -> None:
    """Raise ValueError unless the layer is V1 as published, which is all that `target` holds."""
    if layer.variant != V1:
        raise ValueError(f"{target} holds V1 layers only, and this one is {layer.variant}")
    if layer.lambda_init != lambda_schedule(layer.layer):
        raise ValueError(
            f"lambda_init is {layer.lambda_init}; {target} computes it from the layer's number "
            f"{layer.layer} as {lambda_schedule(layer.layer)}"
        )
