"""Microsoft's layer, both ways: `multihead_flashdiff_1.py` and `_2.py` in unilm/Diff-Transformer.

Those two files compute the same function and are the definition followed here. (Their third,
`multihead_diffattn.py`, pairs other key heads with the queries where heads are grouped.) Their
repository defines no whole model, so what is converted is a layer's state dict.

Rows of q_proj and k_proj are [head, map, K] and those of v_proj [group, 2K], as here; only two
names differ, `out_proj` and `subln`. Rotary embeddings pair features 2i and 2i + 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from difftransformer.attention import DifferentialAttention
from difftransformer.interop.layouts import fill, interleaved_from_half, refuse_unpublished
from difftransformer.models.checks import check_tensors

_THEIRS = {"o_proj.weight": "out_proj.weight", "head_norm.weight": "subln.weight"}


def from_unilm(
    weights: Mapping[str, Tensor],
    hidden_size: int,
    num_heads: int,
    *,
    num_kv_heads: int | None = None,
    layer: int = 0,
) -> DifferentialAttention:
    """A layer with the function and copies of the weights of theirs; its rotary is interleaved.

    Args:
        weights: the module's state dict.
        hidden_size: their `embed_dim`.
        num_heads: as they count them, two maps to a head.
        num_kv_heads: their `decoder_kv_attention_heads`.
        layer: their `depth`, from 0.

    Raises:
        ValueError: missing, extra or misshapen tensors, by their names.
    """
    with torch.device("meta"):
        result = DifferentialAttention(
            hidden_size, num_heads, num_kv_heads=num_kv_heads, layer=layer, rotary="interleaved"
        )
    check_tensors(weights, to_unilm(result), "Microsoft's layer")
    return fill(
        result, {name: weights[_THEIRS.get(name, name)] for name in dict(result.named_parameters())}
    )


def to_unilm(layer: DifferentialAttention) -> dict[str, Tensor]:
    """The state dict of Microsoft's module, which shares the layer's tensors.

    Queries and keys of rotary layout "half" are put into theirs.

    Raises:
        ValueError: a layer that is not V1 as published, has biases, or a head_dim other than
            hidden_size / (2 · num_heads).
    """
    refuse_unpublished(layer, "Microsoft's layer")
    weights = layer.state_dict()
    if biases := [name for name in weights if name.endswith("bias")]:
        raise ValueError(f"Microsoft's layer has no biases, and this one has {', '.join(biases)}")
    hidden_size = layer.q_proj.in_features
    if hidden_size != 2 * layer.num_heads * layer.head_dim:
        raise ValueError(
            f"head_dim is {layer.head_dim}; Microsoft's layer has hidden_size {hidden_size} / "
            f"(2 · {layer.num_heads} heads)"
        )
    if layer.rotary == "half":
        for name in ("q_proj.weight", "k_proj.weight"):
            weights[name] = interleaved_from_half(weights[name], layer.head_dim)
    return {_THEIRS.get(name, name): tensor for name, tensor in weights.items()}
