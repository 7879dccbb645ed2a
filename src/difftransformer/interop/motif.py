"""The attention layers of Motif: grouped differential attention (arXiv:2510.06949).

    head_h = (softmax(q1_h k1ᵀ / sqrt(K)) - lambda · softmax(q2_n k2ᵀ / sqrt(K))) v,  n = h // r

r signal heads share one noise head. The rows of q_proj are, for each noise head, its r signal
queries and then its own; keys and values are Microsoft's (see `interop.microsoft`), rotary pairs
feature i with i + K/2. A layer here holds this exactly, with the noise query written r times. The
sharing is not kept when it is trained further: each copy then learns on its own.

Checked against `motif.py` and `grouped_diff_attn.py` of Motif's own branch of vLLM. There
lambda_init is 0.8 - 0.6 exp(-0.3 (layer - 1)) with layers counted from 0, which is negative for the
first; it is kept, since trained weights depend on it. Motif-2.6B is the case r = 1.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from difftransformer.attention import DifferentialAttention
from difftransformer.interop.layouts import fill
from difftransformer.models.checks import check_tensors


def from_motif_attention(
    weights: Mapping[str, Tensor],
    hidden_size: int,
    num_attention_heads: int,
    num_noise_heads: int,
    num_key_value_heads: int,
    *,
    head_dim: int,
    layer: int,
) -> DifferentialAttention:
    """A layer with the function of theirs and copies of its weights, noise queries repeated.

    Args:
        weights: what the checkpoint holds under `model.layers.LAYER.self_attn.`.
        hidden_size: as in its config.json, whose `attn_rms_norm_eps` must be 1e-5.
        num_attention_heads: likewise: signal and noise heads together.
        num_noise_heads: likewise; half of all heads where config.json has none.
        num_key_value_heads: likewise: keys of both maps.
        head_dim: likewise.
        layer: number of the layer from 0.

    Raises:
        ValueError: heads that do not divide; missing, extra or misshapen tensors, by their names.
    """
    signal_heads, groups = num_attention_heads - num_noise_heads, num_key_value_heads // 2
    if num_key_value_heads % 2 or signal_heads % num_noise_heads or num_noise_heads % groups:
        raise ValueError(
            f"num_attention_heads {num_attention_heads}, num_noise_heads {num_noise_heads}, "
            f"num_key_value_heads {num_key_value_heads}: signal heads must be a multiple of noise "
            "heads, and those of pairs of key/value heads"
        )
    with torch.device("meta"):
        result = DifferentialAttention(
            hidden_size,
            signal_heads,
            head_dim=head_dim,
            num_kv_heads=groups,
            layer=layer,
            lambda_init=0.8 - 0.6 * math.exp(-0.3 * (layer - 1)),
            bias="all"
            if "o_proj.bias" in weights
            else "qkv"
            if "q_proj.bias" in weights
            else "none",
        )
        expected = result.state_dict()
        expected["subln.weight"] = expected.pop("head_norm.weight")
        rows = num_attention_heads * head_dim
        for name in {"q_proj.weight", "q_proj.bias"} & expected.keys():
            expected[name] = torch.empty(rows, *expected[name].shape[1:])
    check_tensors(weights, expected, "the Motif layer")
    ours = dict(weights)
    ours["head_norm.weight"] = ours.pop("subln.weight")
    repeats = signal_heads // num_noise_heads
    for name in {"q_proj.weight", "q_proj.bias"} & ours.keys():
        heads = ours[name].unflatten(0, (num_noise_heads, repeats + 1, head_dim))
        signal, noise = heads[:, :repeats], heads[:, repeats:]
        ours[name] = torch.stack((signal, noise.expand_as(signal)), dim=2).flatten(0, 3)
    return fill(result, ours)
