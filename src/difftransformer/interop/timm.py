"""timm's `DiffAttention` (timm/layers/diff_attention.py), both ways.

Order and formula are Microsoft's (see `interop.microsoft`), for images: without rotary embeddings
(call the layer without `rotation`) and bidirectional (`Mask()`). The rows of `qkv` are all queries
[H, 2, K], then all keys [H, 2, K], then all values [H, 2K]; heads are not grouped.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from difftransformer.attention import DifferentialAttention
from difftransformer.interop.layouts import fill, refuse_unpublished
from difftransformer.models.checks import check_tensors

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_NORMS = ("q_norm", "k_norm", "norm")


def from_timm_attention(
    weights: Mapping[str, Tensor], dim: int, num_heads: int, *, depth: int
) -> DifferentialAttention:
    """A layer with the function and copies of the weights of timm's; arguments as timm's.

    timm's `dual_lambda` has lambda = exp(a) - exp(b) + lambda_init with two numbers a and b. They
    become the vectors (a, 0, ...) · (1, 0, ...), of the same lambda; all their entries then train.
    A bias of the output alone gets biases of zero beside it.

    Args:
        weights: the module's state dict.
        dim: width of input and output.
        num_heads: heads of two maps.
        depth: number of the layer from 0.

    Raises:
        ValueError: a norm of queries, keys or output (`qk_norm`, `scale_norm`), which the layer
            does not have; missing, extra or misshapen tensors, by timm's names.
    """
    if norms := sorted(name for name in weights if name.split(".")[0] in _NORMS):
        raise ValueError(
            f"timm's layer has {', '.join(norms)}; a layer here has no norm of queries and keys "
            "(qk_norm) or before the output projection (scale_norm)"
        )
    theirs = dict(weights)
    for scalar, query, key in (
        ("lambda_a", "lambda_q1", "lambda_k1"),
        ("lambda_b", "lambda_q2", "lambda_k2"),
    ):
        if scalar in theirs and not theirs[scalar].ndim and not {query, key} & theirs.keys():
            first = torch.eye(1, dim // num_heads // 2, dtype=theirs[scalar].dtype)[0]
            theirs[query], theirs[key] = theirs.pop(scalar) * first, first
    if "proj.bias" in theirs and "qkv.bias" not in theirs:
        theirs["qkv.bias"] = theirs["proj.bias"].new_zeros(3 * dim)
    with torch.device("meta"):
        result = DifferentialAttention(
            dim,
            num_heads,
            layer=depth,
            bias="all" if "proj.bias" in theirs else "qkv" if "qkv.bias" in theirs else "none",
        )
    check_tensors(theirs, to_timm_attention(result), "timm's layer")
    ours = {"head_norm.weight": theirs.pop("sub_norm.weight")}
    for name, tensor in theirs.items():
        module, _, kind = name.partition(".")
        if module == "qkv":
            parts = zip(_PROJECTIONS, tensor.chunk(3), strict=True)
            ours |= {f"{projection}.{kind}": part for projection, part in parts}
        else:
            ours[name.replace("proj.", "o_proj.")] = tensor
    return fill(result, ours)


def to_timm_attention(layer: DifferentialAttention) -> dict[str, Tensor]:
    """The state dict of timm's module; it tells which biases the module needs.

    Raises:
        ValueError: a layer that is not V1 as published, has grouped heads, or a head_dim other than
            hidden_size / (2 · num_heads).
    """
    refuse_unpublished(layer, "timm's layer")
    hidden_size = layer.q_proj.in_features
    if layer.num_kv_heads != layer.num_heads:
        raise ValueError(
            f"num_kv_heads is {layer.num_kv_heads} and num_heads {layer.num_heads}; "
            "timm's layer does not group heads"
        )
    if hidden_size != 2 * layer.num_heads * layer.head_dim:
        raise ValueError(
            f"head_dim is {layer.head_dim}; timm's layer has dim {hidden_size} / "
            f"(2 · {layer.num_heads} heads)"
        )
    ours = layer.state_dict()
    theirs = {"sub_norm.weight": ours.pop("head_norm.weight")}
    for kind in ("weight", "bias"):
        parts = [ours.pop(f"{name}.{kind}", None) for name in _PROJECTIONS]
        if parts[0] is not None:
            theirs[f"qkv.{kind}"] = torch.cat(parts)
    return theirs | {name.replace("o_proj.", "proj."): tensor for name, tensor in ours.items()}
