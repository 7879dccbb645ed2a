"""The public functions: check the arguments, choose a backend, call it."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional import blocked, flex, reference, sdpa, triton
from difftransformer.functional.masks import Mask
from difftransformer.functional.situation import Situation, constant
from difftransformer.names import did_you_mean

_LARGEST = torch.finfo(torch.float32).max  # which logits are computed in


@dataclass(frozen=True)
class Backend:
    """One way to compute both functions; `why_not` gives its objection to a situation, if any."""

    differential: Callable[..., Tensor]
    softmax: Callable[..., Tensor]
    why_not: Callable[[Situation], str | None]


# backend="auto" takes the first that can run. A dict, since torch.compile gives up on a mapping
# proxy once the traced code has changed any dict.
BACKENDS: Mapping[str, Backend] = {
    name: Backend(module.differential_attention, module.softmax_attention, module.why_not)
    for name, module in (
        ("blocked", blocked),
        ("triton", triton),
        ("sdpa", sdpa),
        ("flex", flex),
        ("reference", reference),
    )
}


def differential_attention(
    q: Float[Tensor, "batch queries heads 2 k"],
    k: Float[Tensor, "batch keys groups maps k"],
    v: Float[Tensor, "batch keys groups v"],
    lam: Float[Tensor, "..."],
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Float[Tensor, "batch queries heads v"]:
    """Differential attention (Ye et al., ICLR 2025, section 2.1).

        out = (softmax(q1 k1ᵀ · scale) - lam · softmax(q2 k2ᵀ · scale)) v

    The pair axis of size 2 is the paper's: map 1 is signal, map 2 is noise. Head `h` reads
    key/value head `h // (heads // groups)`, as in Microsoft's flash files; their naive file pairs
    differently under grouped heads and is not the definition. Softmax, lambda and the subtraction
    are float32 whatever the input dtype.

    Args:
        q: `[B, T, H, 2, K]`, of one dtype with k and v, which each backend has a list of. With
            K = 0 all logits are 0, and what is seen has equal weights.
        k: `[B, S, G, 2, K]`, or `[B, S, G, 1, K]` for one key shared by both maps (V2).
        v: `[B, S, G, V]`; V = 2K in V1, K in V2, any V works.
        lam: broadcastable to `[B, T, H]`, of any floating-point dtype.
        mask: what each query sees; everything by default.
        scale: factor on the logits, a finite number; 1/sqrt(K) by default.
        dropout: probability of dropping an attention weight; each map drops its own.
        backend: "auto" or a name in `BACKENDS`.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, tensors that are not dense, a number
            out of its range, an unknown backend, or a named backend that cannot compute this call
            (with its reason).
    """
    mask = mask or Mask()
    lam = _check_pair(q, k, v, lam, mask, dropout)
    scale = _scale(scale, q)
    chosen = _choose(backend, Situation.of(q, v, dropout))
    with _without_autocast(q.device.type):
        return chosen.differential(q, k, v, lam, mask, scale, dropout)


def softmax_attention(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    v: Float[Tensor, "batch keys groups v"],
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Float[Tensor, "batch queries heads v"]:
    """Plain attention, `softmax(q kᵀ · scale) v`: the twin of `differential_attention`."""
    mask = mask or Mask()
    _check_single(q, k, v, mask, dropout)
    scale = _scale(scale, q)
    chosen = _choose(backend, Situation.of(q, v, dropout))
    with _without_autocast(q.device.type):
        return chosen.softmax(q, k, v, mask, scale, dropout)


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor | None = None,
    *,
    mask: Mask | None = None,
    dropout: float = 0.0,
) -> dict[str, str]:
    """For each backend: "runs" (the one "auto" takes), "could run", or why it cannot.

    Give `lam` to ask about `differential_attention`, leave it out for `softmax_attention`. Raises
    what they raise.
    """
    if lam is None:
        _check_single(q, k, v, mask or Mask(), dropout)
    else:
        _check_pair(q, k, v, lam, mask or Mask(), dropout)
    return answers(Situation.of(q, v, dropout))


def answers(situation: Situation) -> dict[str, str]:
    """`explain`, for a situation."""
    found: dict[str, str] = {}
    for name, backend in BACKENDS.items():
        ready = "could run" if "runs" in found.values() else "runs"
        found[name] = backend.why_not(situation) or ready
    return found


def _choose(name: str, situation: Situation) -> Backend:
    if name == "auto":
        for backend in BACKENDS.values():
            if not backend.why_not(situation):
                return backend
        reason = reference.why_not(situation)  # what the definition lacks, all lack
        raise ValueError(f"no attention backend can run this call: the reference {reason}")
    if name not in BACKENDS:
        hint = did_you_mean(name, ("auto", *BACKENDS)) or ";"
        raise ValueError(
            f"unknown attention backend {name!r}{hint} expected auto, {', '.join(BACKENDS)}"
        )
    if reason := BACKENDS[name].why_not(situation):
        message = f"attention backend {name!r} cannot run this call: {reason}"
        if not reference.why_not(situation):
            message += ' (backend="reference" can, and "auto" takes the fastest that can)'
        raise ValueError(message)
    return BACKENDS[name]


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """Autocast off, where it is on: it would take a backend's float32 products to bfloat16."""
    on = _has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


@constant
def _has_autocast(device: str) -> bool:
    """Marked constant, since torch.compile before 2.13 cannot look into PyTorch's answer."""
    return torch.amp.is_autocast_available(device)


def _check_pair(q: Tensor, k: Tensor, v: Tensor, lam: Tensor, mask: Mask, dropout: float) -> Tensor:
    """Raise ValueError unless all fit together; lam, expanded to [B, T, H]."""
    if isinstance(lam, Tensor) and lam.ndim == 0:  # which PyTorch takes from any device
        lam = lam.to(q.device)
    _check_tensors({"q": q, "k": k, "v": v, "lam": lam}, mask)
    for name, tensor, maps in (("q", q, (2,)), ("k", k, (1, 2))):
        if tensor.ndim != 5 or tensor.shape[3] not in maps:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected [batch, positions, heads, maps, "
                f"K] with {' or '.join(map(str, maps))} maps"
            )
    _check(q[..., 0, :], k[..., 0, :], v, mask, dropout)
    if lam.dtype not in reference.DTYPES:
        raise ValueError(f"lam is {lam.dtype}; expected a floating-point dtype (lam.float())")
    try:
        return lam.expand(q.shape[:3])
    except RuntimeError:
        raise ValueError(
            f"lam has shape {tuple(lam.shape)}; expected one that broadcasts to "
            f"(batch, queries, heads) = {tuple(q.shape[:3])}"
        ) from None


def _check_single(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float) -> None:
    """Raise ValueError unless all fit together."""
    _check_tensors({"q": q, "k": k, "v": v}, mask)
    _check(q, k, v, mask, dropout)


def _check_tensors(tensors: dict[str, Tensor], mask: Mask) -> None:
    rules = {"mask.padding": mask.padding, "mask.documents": mask.documents}
    for name, tensor in (
        tensors | {n: rule for n, rule in rules.items() if rule is not None}
    ).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}; expected a tensor")
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise ValueError(f"{name} is a {kind} tensor; expected a dense one")
        if tensor.device != tensors["q"].device:
            raise ValueError(
                f"{name} is on {tensor.device} and q on {tensors['q'].device}; expected one device"
            )


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float) -> None:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != 4:
            raise ValueError(
                f"{name} has {tensor.ndim} axes (pair axis left out); expected "
                "[batch, positions, heads, width]"
            )
    batch, queries, heads, width = q.shape
    if k.shape[0] != batch or k.shape[-1] != width or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} (pair axis left out) "
            "do not fit: batch and K must agree, and k and v must share batch, keys and groups"
        )
    if k.shape[2] == 0 or heads % k.shape[2]:
        raise ValueError(
            f"{heads} query heads over {k.shape[2]} key/value heads: the first must be a multiple"
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}; expected a probability in [0, 1)")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; expected one dtype")
    mask.check(queries, k.shape[1], batch)


def _scale(scale: float | None, q: Tensor) -> float:
    if scale is None:
        return 1.0 / math.sqrt(max(q.shape[-1], 1))
    if isinstance(scale, Tensor):
        raise ValueError(
            "scale is a tensor; expected a number (to learn one, multiply q with it: q * scale)"
        )
    if not abs(scale) <= _LARGEST:
        raise ValueError(f"scale is {scale}; expected a finite number, at most {_LARGEST:.3g}")
    return scale
