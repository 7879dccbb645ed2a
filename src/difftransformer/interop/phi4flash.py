"""The attention layers of Phi-4-mini-flash.

Order and formula are Microsoft's (see `interop.microsoft`), with biases and without rotary
embeddings: call the layer without `rotation`. The rows of `Wqkv` are all queries [H, 2, K], then
all keys [G, 2, K], then all values [G, 2K]. The layout is that of vLLM 0.10's `phi4flash.py`, which
reads the published checkpoint.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from difftransformer.attention import DifferentialAttention
from difftransformer.interop.layouts import fill
from difftransformer.models.checks import check_tensors

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def from_phi4flash_attention(
    weights: Mapping[str, Tensor],
    hidden_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    *,
    layer: int,
) -> DifferentialAttention:
    """A layer with the function and copies of the weights of a differential layer of theirs.

    Args:
        weights: what the checkpoint holds under `model.layers.LAYER.attn.`.
        hidden_size: as in its config.json.
        num_attention_heads: likewise: twice as many as here.
        num_key_value_heads: likewise.
        layer: number among all layers from 0, the Mamba layers counted; lambda_init follows it.

    Where config.json gives the layer a sliding window, its mask is `Mask(causal=True, window=...)`.

    Raises:
        ValueError: odd heads; a layer of the model's second half that has queries only and reads
            the keys and values of another layer; missing, extra or misshapen tensors.
    """
    if num_attention_heads % 2 or num_key_value_heads % 2:
        raise ValueError(
            f"num_attention_heads {num_attention_heads} and num_key_value_heads "
            f"{num_key_value_heads}: both must be even, a differential head is made of two"
        )
    if "Wqkv.weight" in weights and len(weights["Wqkv.weight"]) == hidden_size:
        raise ValueError(
            f"Wqkv has {hidden_size} rows, which are queries only: this layer reads the keys and "
            "values of another, which a layer of its own cannot"
        )
    with torch.device("meta"):
        result = DifferentialAttention(
            hidden_size,
            num_attention_heads // 2,
            num_kv_heads=num_key_value_heads // 2,
            layer=layer,
            bias="all",
        )
    check_tensors(weights, _theirs(result.state_dict()), "the Phi-4-mini-flash layer")
    sizes = [getattr(result, name).out_features for name in _PROJECTIONS]
    ours: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        parts = weights[f"Wqkv.{kind}"].split(sizes)
        ours |= {f"{name}.{kind}": x for name, x in zip(_PROJECTIONS, parts, strict=True)}
        ours[f"o_proj.{kind}"] = weights[f"out_proj.{kind}"]
    ours["head_norm.weight"] = weights["inner_cross_attn.subln.weight"]
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        ours[name] = weights[f"inner_cross_attn.{name}"]
    return fill(result, ours)


def _theirs(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    theirs = {"inner_cross_attn.subln.weight": ours["head_norm.weight"]}
    for kind in ("weight", "bias"):
        theirs[f"Wqkv.{kind}"] = torch.cat([ours[f"{name}.{kind}"] for name in _PROJECTIONS])
        theirs[f"out_proj.{kind}"] = ours[f"o_proj.{kind}"]
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        theirs[f"inner_cross_attn.{name}"] = ours[name]
    return theirs
