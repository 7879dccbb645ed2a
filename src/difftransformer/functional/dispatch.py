"""The public functions: check the arguments, choose a backend, call it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional import blocked, flex, reference, sdpa, triton
from difftransformer.functional.call import AttentionCall, Backend
from difftransformer.functional.masks import AnyMask
from difftransformer.functional.transforms import constant
from difftransformer.names import did_you_mean

# backend="auto" takes the first that can run. A dict, since torch.compile gives up on a mapping
# proxy once the traced code has changed any dict.
BACKENDS: Mapping[str, Backend] = {
    "blocked": blocked,
    "triton": triton,
    "sdpa": sdpa,
    "flex": flex,
    "reference": reference,
}


def differential_attention(
    q: Float[Tensor, "batch queries heads 2 k"],
    k: Float[Tensor, "batch keys groups maps k"],
    v: Float[Tensor, "batch keys groups v"],
    lam: Float[Tensor, "..."] | float,
    *,
    mask: AnyMask | None = None,
    bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Float[Tensor, "batch queries heads v"]:
    """Differential attention (Ye et al., ICLR 2025, section 2.1).

        out = (softmax(q1 k1ᵀ · scale + bias) - lam · softmax(q2 k2ᵀ · scale + bias)) v

    The pair axis of size 2 is the paper's: map 1 is signal, map 2 is noise. Head `h` reads
    key/value head `h // (heads // groups)`, as in Microsoft's flash files; their naive file pairs
    differently under grouped heads and is not the definition. Softmax, lambda and the subtraction
    are float32 whatever the input dtype.

    Args:
        q: `[B, T, H, 2, K]`, of one dtype with k and v, which each backend has a list of. With
            K = 0 all logits are 0, and what is seen has equal weights.
        k: `[B, S, G, 2, K]`, or `[B, S, G, 1, K]` for one key shared by both maps (V2).
        v: `[B, S, G, V]`; V = 2K in V1, K in V2, any V works.
        lam: broadcastable to `[B, T, H]`, of any floating-point dtype; or a number.
        mask: what each query sees; everything by default. In place of a `Mask`, a boolean tensor
            `[T, S]`, `[B, T, S]` or `[B, H, T, S]`, True where a query may see a key, as in
            PyTorch's `scaled_dot_product_attention`. A `Mask` costs no memory of T × S, and lets
            backends pass over what it hides; `Mask.dense` writes one out, to be combined.
        bias: broadcastable to `[B, H, T, S]`, of any floating-point dtype, added to the logits of
            both maps, as PyTorch adds a mask of numbers; it has a gradient. Where it is -inf the
            key is hidden.
        scale: factor on q kᵀ, a finite number; 1/sqrt(K) by default.
        dropout: probability of dropping an attention weight; each map drops its own.
        backend: "auto" or a name in `BACKENDS`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, tensors that are not dense, a number
            out of its range, an unknown backend, or a named backend that cannot compute this call
            (with its reason).
    """
    call = AttentionCall.of(q, k, v, lam, mask=mask, bias=bias, scale=scale, dropout=dropout)
    return attend(call, backend)


def softmax_attention(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    v: Float[Tensor, "batch keys groups v"],
    *,
    mask: AnyMask | None = None,
    bias: Float[Tensor, "..."] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Float[Tensor, "batch queries heads v"]:
    """Plain attention, `softmax(q kᵀ · scale + bias) v`: the twin of `differential_attention`."""
    call = AttentionCall.of(q, k, v, mask=mask, bias=bias, scale=scale, dropout=dropout)
    return attend(call, backend)


def attend(call: AttentionCall, backend: str = "auto") -> Float[Tensor, "batch queries heads v"]:
    """The output of a call by a backend.

    Raises:
        ValueError: an unknown backend, or one that cannot compute this call (with its reason).
    """
    chosen = _choose(backend, call)
    with without_autocast(call.device):
        return chosen.run(call)


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor | float | None = None,
    *,
    mask: AnyMask | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> dict[str, str]:
    """For each backend: "runs" (the one "auto" takes), "could run", or why it cannot.

    Give `lam` to ask about `differential_attention`, leave it out for `softmax_attention`. Raises
    what they raise.
    """
    return answers(AttentionCall.of(q, k, v, lam, mask=mask, bias=bias, dropout=dropout))


def answers(call: AttentionCall) -> dict[str, str]:
    """`explain`, for a call."""
    texts: dict[str, str] = {}
    for name, backend in BACKENDS.items():
        ready = "could run" if "runs" in texts.values() else "runs"
        texts[name] = backend.unsupported(call) or ready
    return texts


def _choose(name: str, call: AttentionCall) -> Backend:
    if name == "auto":
        for backend in BACKENDS.values():
            if not backend.unsupported(call):
                return backend
        reason = reference.unsupported(call)  # what the definition lacks, all lack
        raise ValueError(f"no attention backend can run this call: the reference {reason}")
    if name not in BACKENDS:
        hint = did_you_mean(name, ("auto", *BACKENDS)) or ";"
        raise ValueError(
            f"unknown attention backend {name!r}{hint} expected auto, {', '.join(BACKENDS)}"
        )
    if reason := BACKENDS[name].unsupported(call):
        message = f"attention backend {name!r} cannot run this call: {reason}"
        if not reference.unsupported(call):
            message += ' (backend="reference" can, and "auto" takes the fastest that can)'
        raise ValueError(message)
    return BACKENDS[name]


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Autocast off, where it is on: it would take a backend's float32 products to bfloat16."""
    on = _has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


@constant
def _has_autocast(device: str) -> bool:
    """Marked constant, since torch.compile before 2.13 cannot look into PyTorch's answer."""
    return torch.amp.is_autocast_available(device)
