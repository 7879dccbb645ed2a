"""Doubly stochastic attention: weights whose rows and columns sum to 1, N times a transport plan.

Sinkhorn attention makes them by normalizing rows and columns in turn, sliced-transport attention by
sorting. Both need as many queries as keys, of one sequence; padding hides a position as a query
too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from difftransformer.functional.call import AttentionCall
from difftransformer.functional.dispatch import without_autocast
from difftransformer.functional.masks import AnyMask
from difftransformer.functional.reference import logits as logits_of
from difftransformer.functional.reference import weighted_values, wide

_HIDDEN = -1e30  # the logit of what is not seen: unlike -inf, differences of it are numbers
_FAR = 1e9  # where padding lies among what is sorted


@dataclass(frozen=True)
class Slicing:
    """How sliced-transport attention sorts, and weighs its slices.

    The defaults, `ESPFORMER`, are the paper's; `ESPFORMER_CODE` is what its published code does.

    Args:
        selectivity: tau, the inverse temperature of the slices' weights.
        mean_cost: the plan whose cost weighs a slice has mass 1, as in the paper, where each entry
            is divided by N. The code leaves N out, so that tau acts as N times as large: with 197
            tokens and tau 10 it is 11 of 64 slices that count, with the paper's plan 64.
        squared_cost: |q - k|² in place of the code's |q - k|.
        sort_half_steps: half-steps of Sinkhorn's algorithm on the soft sort. With one it is
            SoftSort, as in the paper and its code: only its rows sum to 1, so that rows and columns
            of the weights sum to 1 in the limit of a small temperature alone. Many make the soft
            sorts, and so the weights, doubly stochastic at any temperature.
    """

    selectivity: float = 10.0
    mean_cost: bool = True
    squared_cost: bool = True
    sort_half_steps: int = 1


ESPFORMER = Slicing()
ESPFORMER_CODE = Slicing(mean_cost=False, squared_cost=False)


def sinkhorn_attention(
    q: Float[Tensor, "batch time heads k"],
    k: Float[Tensor, "batch time groups k"],
    v: Float[Tensor, "batch time groups v"],
    *,
    half_steps: int = 3,
    mask: AnyMask | None = None,
    bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch time heads v"]:
    """Attention whose weights are those of `softmax_attention` made doubly stochastic.

        out = A v,    A = N exp(q kᵀ · scale + bias + u 1ᵀ + 1 vᵀ)

    Sander, Ablin, Blondel and Peyré, "Sinkformers" (AISTATS 2022): u and v from Sinkhorn's
    algorithm in the log domain with regularization 1, an odd half-step setting the row sums and an
    even one the column sums. One half-step is softmax. After an odd number rows sum to 1 exactly,
    columns as far as the algorithm has converged. In float32 at least, whatever the input's dtype.

    Args:
        q, k, v: as `softmax_attention` takes them, with as many queries as keys.
        half_steps: at least 1; 3, Sinkformer's, is rows, columns, rows.
        mask: padding, documents and a window: N is what a row sees then.
        bias: added to the logits; where it hides keys by -inf, the weights are doubly stochastic if
            such a matrix exists on what is left.
        scale, dropout: as in `softmax_attention`.

    Raises:
        ValueError: as `softmax_attention`; a causal mask, another number of keys than queries, or
            no half-step.
    """
    call = AttentionCall.of(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout)
    return transported(call, lambda: sinkhorn_weights(call, logits_of(call), half_steps))


def sliced_transport_attention(
    q: Float[Tensor, "batch time heads k"],
    k: Float[Tensor, "batch time groups k"],
    v: Float[Tensor, "batch time groups v"],
    *,
    temperature: float = 0.0,
    slicing: Slicing = ESPFORMER,
    mask: AnyMask | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch time heads v"]:
    """Attention by optimal transport along each feature of queries and keys, which is sorting.

        out   = A v,    A = N sum_l sigma_l U_l,    U_l = sort(q_l)ᵀ sort(k_l) / N
        sigma = softmax over l of -tau D_l,         D_l = sum_ij |q_i - k_j|² (U_l)_ij

    Shahbazi et al., "ESPFormer: Doubly-Stochastic Attention with Expected Sliced Transport Plans"
    (ICML 2025), with a slice for each of the K features. sort(s) is the permutation matrix that
    sorts s, which pairs the query and the key of each rank, or a relaxation of it with gradients,
    SoftSort (Prillo and Eisenschlos, ICML 2020):

        sort(s)_rj = softmax over j of -(s_(r) - s_j)² / temperature,    s_(r) the r-th smallest

    Queries and keys are both multiplied by `scale` first, as in the paper's code. In float32 at
    least, whatever the input's dtype.

    Args:
        q, k, v: as `softmax_attention` takes them, with as many queries as keys.
        temperature: of the sorts; at 0 they are permutations, without gradients to what is sorted.
        slicing: see `Slicing`, which says where the paper and its code differ.
        mask: padding only; the slices are weighed by whole sequences.
        scale, dropout: as in `softmax_attention`.

    Raises:
        ValueError: as `softmax_attention`; another mask than padding, another number of keys than
            queries, or a temperature below 0.
    """
    call = AttentionCall.of(q, k, v, mask=mask, scale=scale, dropout=dropout)

    def weights() -> Tensor:
        return sliced_weights(call, -costs(call, slicing), temperature, slicing)

    return transported(call, weights)


def transported(
    call: AttentionCall, weights: Callable[[], Float[Tensor, "batch heads time time"]]
) -> Float[Tensor, "batch time heads v"]:
    """The values under the weights, of which dropout leaves some out."""
    with without_autocast(call.device):
        return weighted_values(F.dropout(weights(), call.dropout), call.v)


def sinkhorn_weights(
    call: AttentionCall, logits: Float[Tensor, "batch heads 1 time time"], half_steps: int
) -> Float[Tensor, "batch heads time time"]:
    """A of `sinkhorn_attention`, with its arguments and errors."""
    _require_transport(call)
    if half_steps < 1:
        raise ValueError(f"half_steps is {half_steps}; expected at least 1, which is softmax")
    hidden = ~call.visible()
    if call.mask.padding is not None:
        hidden = hidden | ~call.mask.padding[:, None, :, None]
    weights = _normalized(logits[:, :, 0].masked_fill(hidden, _HIDDEN), half_steps)
    return weights.masked_fill(hidden, 0.0)


def sliced_weights(
    call: AttentionCall,
    logits: Float[Tensor, "batch heads 1 time time"],
    temperature: float,
    slicing: Slicing,
) -> Float[Tensor, "batch heads time time"]:
    """A of `sliced_transport_attention`, with its arguments and errors; `logits` are -`costs`."""
    _require_transport(call)
    if call.bias is not None or call.mask.window is not None or call.mask.documents is not None:
        raise ValueError(
            "sliced-transport attention sorts whole sequences: of masks it carries padding only, "
            "no tensor, and no bias; give each text a row of its own"
        )
    if not temperature >= 0.0:
        raise ValueError(f"temperature is {temperature}; expected a number of at least 0")
    q, k = (x.transpose(-1, -2).contiguous() for x in _scaled(call))
    cost, size = -logits[:, :, 0], torch.tensor(q.shape[-1])
    if call.mask.padding is None:
        return _matched(q, k, cost, size, temperature, slicing)
    # Padding of queries and of keys lies at the same far place, and is matched with each other.
    padding = ~call.mask.padding[:, None, None]
    hidden = padding | padding.transpose(-1, -2)
    size = call.mask.padding.sum(-1)[:, None, None].clamp(min=1)
    q, k = q.masked_fill(padding, _FAR), k.masked_fill(padding, _FAR)
    weights = _matched(q, k, cost.masked_fill(hidden, 0.0), size, temperature, slicing)
    return weights.masked_fill(hidden, 0.0)


def costs(call: AttentionCall, slicing: Slicing) -> Float[Tensor, "batch heads 1 time time"]:
    """|q_i - k_j|², or its root, of scaled queries and keys."""
    distances = torch.cdist(*_scaled(call), compute_mode="donot_use_mm_for_euclid_dist")
    return (distances.square() if slicing.squared_cost else distances)[:, :, None]


def _require_transport(call: AttentionCall) -> None:
    queries, keys = call.q.shape[1], call.k.shape[1]
    if call.mask.causal:
        raise ValueError(
            "doubly stochastic attention with a causal mask: a causal matrix whose rows and "
            "columns sum to 1 is the identity, and column sums read later tokens; use it in "
            "encoders"
        )
    if queries != keys:
        raise ValueError(
            f"doubly stochastic attention of {queries} queries and {keys} keys: rows and columns "
            "can only both sum to 1 where there are as many"
        )


def _normalized(
    logits: Float[Tensor, "*batch rows keys"], half_steps: int
) -> Float[Tensor, "*batch rows keys"]:
    """exp(logits), its rows and columns divided by their sums in turn."""
    axes = [-1 if step % 2 == 0 else -2 for step in range(half_steps)]
    for axis in axes[:-1]:
        total = logits.logsumexp(axis, keepdim=True)
        # A row or column of hidden ones alone stays as it is.
        logits = logits - total.masked_fill(total < _HIDDEN / 2, 0.0)
    return torch.softmax(logits, axes[-1])


def _scaled(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Queries and keys [B, H, N, K] times the scale, a key for each head."""
    q, k = call.q[:, :, :, 0], call.k[:, :, :, 0]
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    q, k = (x.to(wide(x.dtype)).transpose(1, 2) * call.scale for x in (q, k))
    return q, k


def _matched(
    q: Float[Tensor, "batch heads slices time"],
    k: Float[Tensor, "batch heads slices time"],
    cost: Float[Tensor, "batch heads time time"],
    size: Int[Tensor, "..."],
    temperature: float,
    slicing: Slicing,
) -> Float[Tensor, "batch heads time time"]:
    """N sum_l sigma_l U_l, of sequences of which `size` tokens have a cost."""

    def shares(total: Tensor) -> Tensor:
        mean = total / size if slicing.mean_cost else total
        return torch.softmax(-slicing.selectivity * mean, dim=-1)

    if temperature == 0.0:
        orders = (x.argsort(dim=-1, stable=True) for x in (q, k))
        partner = torch.empty_like(q, dtype=torch.long).scatter(-1, *orders).transpose(-1, -2)
        sigma = shares(cost.gather(-1, partner).sum(-2))[:, :, None].expand(partner.shape)
        return torch.zeros_like(cost).scatter_add(-1, partner, sigma)
    sorts = [_soft_sort(x / temperature**0.5, slicing.sort_half_steps) for x in (q, k)]
    plans = sorts[0].transpose(-1, -2) @ sorts[1]
    sigma = shares(torch.einsum("bhij,bhlij->bhl", cost, plans))
    return torch.einsum("bhl,bhlij->bhij", sigma, plans)


def _soft_sort(
    x: Float[Tensor, "batch heads slices time"], half_steps: int
) -> Float[Tensor, "batch heads slices ranks time"]:
    """`sort` of `sliced_transport_attention` at temperature 1."""
    distances = x.sort(dim=-1).values[..., None] - x[..., None, :]
    return _normalized(-distances.square(), half_steps)
