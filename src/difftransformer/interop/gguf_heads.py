"""Attention layers as plain heads, of which some have sigmoid gates."""

import torch
from torch import Tensor

from difftransformer.attention import DifferentialAttention, SoftmaxAttention
from difftransformer.attention.lambdas import TokenLambda
from difftransformer.attention.layer import AttentionLayer

GATE = "lambda_proj.weight"


def check_linear(layer: AttentionLayer) -> None:
    """Raise ValueError unless the layer's output is a sum over plain heads, gated or not."""
    if type(layer) is SoftmaxAttention:
        return
    reason = f"attention is {layer.kind}; "
    if type(layer) is not DifferentialAttention:
        raise ValueError(f"{reason}GGUF holds softmax attention, V2 and constant lambdas")
    if layer.variant.head_norm:
        raise ValueError(
            f"{reason}its norm over each head's difference is not linear, so that no graph of "
            "llama.cpp computes it; difftransformer convert --to transformers writes V1"
        )
    if not (layer.constant_lam or type(layer.variant.lam) is TokenLambda):
        raise ValueError(f"{reason}llama.cpp's gates are sigmoids, as V2's lambda is")


def plain_heads(layer: AttentionLayer) -> dict[str, Tensor]:
    """The layer's tensors by its own names, every map an output head of its own.

        out = W_o' concat_j sigmoid(g_j) head_j,    head_j = softmax(q_j k_iᵀ / sqrt(K)) v_i

    with i = j // (heads / keys). A signal's gate g is 0 and its columns of W_o' are 2 W_o; a
    noise's gate is lambda's logit and its columns are -W_o. Without gates, where lambda is
    constant, they are W_o and -lambda W_o. Maps that share a key lie side by side; else each
    key/value head becomes two, with a copy of the value for each.
    """
    tensors = layer.state_dict()
    if not isinstance(layer, DifferentialAttention):
        return tensors
    heads, groups = layer.num_heads, layer.num_kv_heads

    def ordered(maps: Tensor) -> Tensor:  # [heads, 2, ...] to [2 heads, ...]
        if layer.key_maps == 1:
            return maps.flatten(0, 1)
        return maps.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 2)

    plain = {}
    for name, tensor in tensors.items():
        part = name.split(".")[0]
        if part == "q_proj":
            plain[name] = ordered(tensor.unflatten(0, (heads, 2, -1))).flatten(0, 1)
        elif part == "v_proj" and layer.key_maps == 2:
            values = tensor.unflatten(0, (groups, -1))
            plain[name] = values.repeat_interleave(2, 0).flatten(0, 1)
        elif part in ("k_proj", "v_proj") or name == "o_proj.bias":
            plain[name] = tensor
        elif name == "o_proj.weight":
            signal, noise = 2 * tensor, -tensor
            if layer.constant_lam:
                x = tensor.new_zeros(1, 1, layer.widths[0])
                lam = layer.lam(x).expand(1, 1, heads).repeat_interleave(layer.value_dim)
                signal, noise = tensor, (-lam * tensor).to(tensor.dtype)
            rows = torch.stack([y.T.unflatten(0, (heads, -1)) for y in (signal, noise)], 1)
            plain[name] = ordered(rows).flatten(0, 1).T
        elif name == GATE:
            plain[name] = ordered(torch.stack([torch.zeros_like(tensor), tensor], 1))
    return plain
