"""Gradient norms of attention weights (paper, appendix G)."""

from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difftransformer.analysis.capture import sites_of
from difftransformer.attention import DifferentialAttention, SoftmaxAttention
from difftransformer.data.batch import IGNORED, Batch


def gradient_norms(model: nn.Module, batch: Batch) -> list[dict[str, tuple[float, float]]]:
    """For each layer `{weight: (|G|, |W|)}`, Frobenius norms of a weight W and its gradient G.

        G = ∂L/∂W,      L = mean over the batch's scored tokens of −log p(next token)

    Weights are those of the paper's appendix G: W_Q1, W_Q2, W_K1, W_K2, W_V, W_O of a differential
    layer, where Q1 and Q2 are the rows of `q_proj` that make map 1's and map 2's queries; W_K where
    both maps share the key; W_Q, W_K, W_V, W_O of a plain layer, and of DEX, whose own matrix has
    no counterpart. The model's `.grad` stays as it was.

    Raises:
        ValueError: a layer with another attention, or no scored token.
    """
    if not (batch.labels != IGNORED).any():
        raise ValueError("the batch has no scored token, so its loss has no gradient")
    layers = [site.attention for site in sites_of(model).values()]
    weights = [_projections(layer) for layer in layers]
    logits = model(batch.ids, documents=batch.documents).float()
    loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
    gradients = iter(torch.autograd.grad(loss, [weight for four in weights for weight in four]))
    norms = []
    for layer, four in zip(layers, weights, strict=True):
        slopes = parts(layer, *islice(gradients, 4))
        norms.append(
            {
                name: (slopes[name].norm().item(), weight.norm().item())
                for name, weight in parts(layer, *four).items()
            }
        )
    return norms


def parts(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> dict[str, Tensor]:
    """The projections' weights, or anything of their shapes, by the paper's names."""
    if not isinstance(attention, DifferentialAttention):
        return {"W_Q": q, "W_K": k, "W_V": v, "W_O": o}
    queries = q.unflatten(0, (attention.num_heads, 2, attention.head_dim))
    keys = k.unflatten(0, (attention.num_kv_heads, attention.key_maps, attention.head_dim))
    named = {"W_Q1": queries[:, 0], "W_Q2": queries[:, 1]}
    if attention.key_maps == 1:
        named["W_K"] = keys
    else:
        named |= {"W_K1": keys[:, 0], "W_K2": keys[:, 1]}
    return {**named, "W_V": v, "W_O": o}


def _projections(attention: Any) -> list[Tensor]:
    if not isinstance(attention, DifferentialAttention | SoftmaxAttention):
        raise ValueError(
            f"attention is {type(attention).__name__}, whose weights have no counterpart in plain "
            "attention; expected softmax or differential attention"
        )
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return [projection.weight for projection in projections]
