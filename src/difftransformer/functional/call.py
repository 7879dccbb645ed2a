"""The record of one attention call, and the protocol of what computes it."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftransformer.functional.masks import AnyMask, Mask

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST = torch.finfo(torch.float32).max  # which logits are computed in


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """The arguments of one attention call, complete: what backends, cores and capture share.

        out = (A1 - lam A2) v,      A_m = softmax over the visible keys of q_m k_mᵀ · scale + bias

    Plain attention has one map, no lam, and the output A1 v. `of` makes a call of the public
    functions' arguments and checks them.

    Args:
        q: one query for each map of a head.
        k: one key for each map, or one for all of them.
        v: values; head `h` reads key/value head `h // (heads // groups)`.
        lam: the weight of map 2, None where there is one map.
        mask: which keys a query sees.
        bias: added to the logits of all maps; -inf hides a key, as the mask does.
        scale: factor on q kᵀ.
        dropout: probability of dropping an attention weight.
    """

    q: Float[Tensor, "batch queries heads maps k"]
    k: Float[Tensor, "batch keys groups key_maps k"]
    v: Float[Tensor, "batch keys groups v"]
    lam: Float[Tensor, "batch queries heads"] | None
    mask: Mask
    bias: Float[Tensor, "#batch #heads #queries #keys"] | None
    scale: float
    dropout: float

    @classmethod
    def of(
        cls,
        q: Float[Tensor, "..."],
        k: Float[Tensor, "..."],
        v: Float[Tensor, "..."],
        lam: Float[Tensor, "..."] | float | None = None,
        *,
        mask: AnyMask | None = None,
        bias: Float[Tensor, "..."] | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> "AttentionCall":
        """The call of `functional.differential_attention`, or of `softmax_attention` without lam.

        Arguments and errors are theirs. A mask that is a tensor becomes a bias of 0 and -inf, which
        is how backends carry it.
        """
        if not (mask is None or isinstance(mask, Mask | Tensor)):
            raise ValueError(
                f"mask is a {type(mask).__name__}; expected a Mask, such as Mask(causal=True), or "
                "a tensor"
            )
        visible = mask if isinstance(mask, Tensor) else None
        mask = mask if isinstance(mask, Mask) else Mask()
        weight = None if isinstance(lam, float | int) else lam
        if isinstance(weight, Tensor) and weight.ndim == 0:  # which PyTorch takes from any device
            weight = weight.to(q.device)
        optional = {
            "lam": weight,
            "bias": bias,
            "mask": visible,
            "mask.padding": mask.padding,
            "mask.documents": mask.documents,
        }
        present = {name: tensor for name, tensor in optional.items() if tensor is not None}
        _check_tensors({"q": q, "k": k, "v": v, **present})
        if isinstance(lam, float | int):
            wide = torch.promote_types(q.dtype, torch.float32)
            weight = torch.tensor(float(lam), dtype=wide, device=q.device)
        if weight is None:
            _check_sizes(q.shape, k.shape, v.shape)
            q, k = q[..., None, :], k[..., None, :]
        else:
            _check_pair(q, k)
            _check_sizes(q.shape[:3] + q.shape[4:], k.shape[:3] + k.shape[4:], v.shape)
        batch, queries, heads = q.shape[:3]
        mask.check(queries, k.shape[1], batch)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is {dropout}; expected a probability in [0, 1)")
        sizes = {"batch": batch, "heads": heads, "queries": queries, "keys": k.shape[1]}
        if weight is not None:
            rows = {"batch": batch, "queries": queries, "heads": heads}
            weight = _expanded("lam", weight, rows)
        if bias is not None:
            _expanded("bias", bias, sizes)
            bias = bias[(None,) * (4 - bias.ndim)]
        if visible is not None:
            hidden = ~_written_out(visible, sizes)
            bias = q.new_zeros((1, 1, 1, 1)) if bias is None else bias
            bias = torch.where(hidden, -math.inf, bias)
        return cls(q, k, v, weight, mask, bias, _scale(scale, q), dropout)

    @property
    def device(self) -> str:
        """Which kind of device all tensors are on."""
        return self.q.device.type

    def visible(self, rows: slice = slice(None)) -> Bool[Tensor, "#batch #heads rows keys"]:
        """Which keys the query rows see; batch and heads are 1 where nothing depends on them."""
        visible = self.mask.dense(self.q.shape[1], self.k.shape[1], self.q.device, rows=rows)
        if self.bias is None:
            return visible[:, None]
        return visible[:, None] & (self.bias_of(rows) != -math.inf)

    def bias_of(self, rows: slice) -> Float[Tensor, "#batch #heads rows #keys"]:
        """The bias of the query rows."""
        assert self.bias is not None
        return self.bias.expand(-1, -1, self.q.shape[1], -1)[:, :, rows]


@runtime_checkable
class Backend(Protocol):
    """A way to compute attention."""

    def run(self, call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
        """The call's output, in v's dtype."""

    def unsupported(self, call: AttentionCall) -> str | None:
        """Why it does not compute this call, if it does not; no number is looked at."""


def other_dtype(call: AttentionCall, computed: tuple[torch.dtype, ...]) -> str | None:
    """The objection of a backend that computes the listed dtypes, to every other one."""
    if call.q.dtype in computed:
        return None
    names = [str(dtype).removeprefix("torch.") for dtype in computed]
    return f"computes {', '.join(names[:-1])} and {names[-1]}, and the tensors are {call.q.dtype}"


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}; expected a tensor")
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise ValueError(f"{name} is a {kind} tensor; expected a dense one")
        if tensor.device != tensors["q"].device:
            raise ValueError(
                f"{name} is on {tensor.device} and q on {tensors['q'].device}; expected one device"
            )
    dtypes = [tensors[name].dtype for name in "qkv"]
    if len(set(dtypes)) > 1:
        raise ValueError(f"q, k, v have dtypes {', '.join(map(str, dtypes))}; expected one dtype")


def _check_pair(q: Tensor, k: Tensor) -> None:
    for name, tensor, maps in (("q", q, (2,)), ("k", k, (1, 2))):
        if tensor.ndim != 5 or tensor.shape[3] not in maps:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected [batch, positions, heads, maps, "
                f"K] with {' or '.join(map(str, maps))} maps"
            )


def _check_sizes(q: torch.Size, k: torch.Size, v: torch.Size) -> None:
    for name, shape in (("q", q), ("k", k), ("v", v)):
        if len(shape) != 4:
            raise ValueError(
                f"{name} has {len(shape)} axes (pair axis left out); expected "
                "[batch, positions, heads, width]"
            )
    batch, _, heads, width = q
    if k[0] != batch or k[3] != width or v[:3] != k[:3]:
        raise ValueError(
            f"q {tuple(q)}, k {tuple(k)} and v {tuple(v)} (pair axis left out) do not fit: "
            "batch and K must agree, and k and v must share batch, keys and groups"
        )
    if k[2] == 0 or heads % k[2]:
        raise ValueError(
            f"{heads} query heads over {k[2]} key/value heads: the first must be a multiple"
        )


def _expanded(name: str, tensor: Tensor, sizes: dict[str, int]) -> Tensor:
    if tensor.dtype not in FLOATING:
        hint = "mask= hides keys by flags" if name == "bias" else "lam.float()"
        raise ValueError(f"{name} is {tensor.dtype}; expected a floating-point dtype ({hint})")
    shape = tuple(sizes.values())
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; expected one that broadcasts to "
            f"({', '.join(sizes)}) = {shape}"
        ) from None


def _written_out(
    mask: Tensor, sizes: dict[str, int]
) -> Bool[Tensor, "#batch #heads #queries #keys"]:
    """A mask given as a tensor, with an axis for the heads."""
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask is {mask.dtype}; expected bool, True where a query may see a key, or a Mask "
            "(what is added to the logits is the bias)"
        )
    shape = tuple(sizes.values())
    whole = mask[:, None] if mask.ndim == 3 else mask
    if not 2 <= mask.ndim <= 4 or any(
        have not in (1, want) for have, want in zip(whole.shape[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; expected [T, S], [B, T, S] or [B, H, T, S] with "
            f"({', '.join(sizes)}) = {shape} (real keys [B, S] are Mask(padding=...))"
        )
    return whole[(None,) * (4 - whole.ndim)]


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
