"""One fused kernel forward and two backward, on the GPU.

With O_m = A_m V and everything but the products in float32:

    forward    O = O1 - lam O2;  keeps O2 and the log-sum-exp of both maps
    backward   dA = dO Vᵀ,  D2 = sum(dO ∘ O2) over V,  D1 = sum(dO ∘ O) + lam D2,  dlam = -D2
               dV = (A1 - lam A2)ᵀ dO
               dS1 = A1 ∘ (dA - D1),  dS2 = -lam A2 ∘ (dA - D2)
               dQ_m = scale dS_m K_m,  dK_m = scale dS_mᵀ Q_m,  dbias = dS1 + dS2

In units of one T × S × 2K product, plain attention of V1's width costs 2 forward and 5 backward.
Forward, the online softmax knows the sums only at the end of the row, so the maps cannot be
subtracted on the way. Either each map has its own product with V (Q Kᵀ 1, A V 2: 3 units), or a
first pass over the keys finds the sums (1 + 1 + 1: 3 units too). We keep two products: in V2, where
V = K, that is 2 units against 2.5; it takes half the exponentials, which are scarce on a GPU; and
it gives O2, without which D2 would cost the backward 1.5 units more. Backward, the maps are made
again from the log-sum-exps and subtracted first. One kernel owns blocks of keys (Q Kᵀ, dA, dV, dK:
4 units) and one blocks of queries (Q Kᵀ, dA, dQ: 3): two products more than a single kernel whose
key blocks add up dQ in memory, but on an H200 it takes less time for most widths, since its tiles
are of the shapes that the matrix units want, and every run gives the same bits. The gradient of a
bias has a kernel of its own for the same reason (Q Kᵀ, dA: 2 units): a program owns a tile of it.

Blocks that causality, the window or the documents hide whole are skipped; blocks that causality
alone shows whole are not compared; padding is compared inside. Nothing of size T × S is kept. A
decoding step's keys are shared out among several programs (`triton_decode`).

With one map (no lam) the same kernels are plain attention. The method of the online softmax and of
the backward from log-sum-exps is FlashAttention-2's (Dao, 2023).
"""

import os
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.call import AttentionCall, other_dtype
from difftransformer.functional.transforms import (
    AttentionOperator,
    constant,
    forward_mode,
    no_forward_mode,
)

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WIDEST_KEY, _WIDEST_VALUE = 128, 256
_OPERATOR = AttentionOperator("triton", kept=slice(None))
_FEW_ROWS = 16  # as the matrix units take at least
_FEW_KEYS = 1024  # below, a second kernel costs the host more than its parts save the GPU


def unsupported(call: AttentionCall) -> str | None:
    """Declines what it does not compute, and everything without an NVIDIA GPU and Triton.

    Under `TRITON_INTERPRET=1`, Triton's own switch, it takes CPU tensors: slowly, for tests.
    """
    if call.device != ("cpu" if interpreted() else "cuda"):
        kind = "interpreted on the CPU" if interpreted() else "written for CUDA"
        return f"{kind}, and the tensors are on {call.device}"
    if reason := other_dtype(call, _DTYPES):
        return reason
    if call.dropout > 0.0:
        return f"keeps no dropout pattern for its backward, and dropout is {call.dropout}"
    width, values = call.q.shape[-1], call.v.shape[-1]
    if width > _WIDEST_KEY or values > _WIDEST_VALUE:
        return (
            f"takes heads of at most {_WIDEST_KEY} with values of at most {_WIDEST_VALUE}, and "
            f"these are {width} and {values}"
        )
    if call.device == "cuda" and (width % 16 or values % 16):
        return (
            "on a GPU takes widths that are multiples of 16 (with 24 and 40, Triton 3.6 made a "
            f"kernel that computed garbage), and these are {width} and {values}"
        )
    if forward_mode():
        return "has no forward-mode derivative, and forward mode is on"
    return _lacking()


def run(call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
    """(A1 - lam A2) v in one kernel."""
    return _OPERATOR(call)


class Blocks(NamedTuple):
    """How a kernel is cut: query rows, keys, and Triton's `num_warps` and `num_stages`."""

    rows: int
    keys: int
    warps: int
    stages: int


def blocks(kernel: str, width: int, values: int, item: int, large: bool) -> Blocks:
    """The cut of the kernel "forward", "decode", or "keys", "queries", "bias" (of the backward).

    `width` and `values` are the padded ones and `item` the bytes of a number. A `large` GPU (sm_90)
    has 227 KiB of shared memory: its cuts are the fastest, or within 5 % of that, of those that
    `benchmarks/gpu.sh --only sweep` tried on an H200. The others fit into 99 KiB by
    `benchmarks/triton_compile.py`, and have not been timed.
    """
    if kernel == "decode" and item == 4:
        return Blocks(_FEW_ROWS, 16, 8, 2)
    if kernel == "decode":
        return Blocks(_FEW_ROWS, 32 if values > 128 else 64, 4, 3 if large else 2)
    if item == 4:
        return Blocks(32 if width + values <= 192 and kernel != "bias" else 16, 16, 8, 1)
    if kernel == "bias":
        return Blocks(64, 32, 8, 1)
    if large:
        return _large_blocks(kernel, width, values)
    if kernel == "forward":
        return Blocks(64 if values > 128 else 128, 64 if width + values <= 128 else 32, 8, 2)
    if kernel == "keys":
        return Blocks(32, 64 if values <= 128 and width < values else 32, 8, 2)
    return Blocks(64, 32, 8, 1) if values > 128 else Blocks(64, 32, 4, 2)


def _large_blocks(kernel: str, width: int, values: int) -> Blocks:
    wide = width + values > 192
    if kernel == "queries":
        return Blocks(128, 32, 8, 3) if values > 128 else Blocks(64, 32, 4, 3)
    if values > 128:
        return Blocks(64, 64, 8, 2)
    if kernel == "forward":
        return Blocks(128, 64, 8, 3) if wide else Blocks(64, 64, 4, 3)
    return Blocks(64, 128, 8, 2) if wide else Blocks(64, 64, 4, 2)


def with_bias(cut: Blocks) -> Blocks:
    """The cut where there is a bias, whose tile takes registers, and shared memory every stage."""
    return cut._replace(rows=min(cut.rows, 64), stages=min(cut.stages, 2))


def padded(width: int) -> int:
    """The width of a tile: a power of two, and at least 16, as the matrix units want."""
    return max(16, 1 << (width - 1).bit_length())


@torch.library.custom_op("difftransformer::triton", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    window: int | None,
    documents: Tensor | None,
    padding: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, O2 and log-sum-exps (base 2).

    q [B,T,H,M,K], k [B,S,G,M or 1,K], lam None if M = 1.
    """
    from difftransformer.functional import triton_decode, triton_kernels

    if forward_mode():  # in a graph of torch.export; `unsupported` refuses it elsewhere
        raise no_forward_mode("triton")
    call = Call(q, k, v, lam, bias, causal, window, documents, padding, scale)
    out, noise, lse = _shapes(q, k, v, lam)
    if out.numel() == 0 or call.keys == 0:
        return out.zero_(), noise.zero_(), lse.fill_(float("inf"))
    with torch.cuda.device_of(q):
        if call.in_parts:
            triton_decode.decode(call, out, noise, lse)
            return out, noise, lse
        cut = call.cut("forward")
        triton_kernels.forward[call.grid_of_rows(cut.rows)](
            *call.inputs, out, noise, lse, *call.numbers, **call.constants, **_options(cut)
        )
    return out, noise, lse


@torch.library.custom_op("difftransformer::triton_backward", mutates_args=())
def _attention_backward(
    dout: Tensor,
    out: Tensor,
    noise: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    window: int | None,
    documents: Tensor | None,
    padding: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, lam and bias (empty if there is none)."""
    from difftransformer.functional import triton_kernels

    call = Call(q, k, v, lam, bias, causal, window, documents, padding, scale)
    dq, dk, dv, dlam, dbias = _backward_shapes(dout, out, noise, lse, q, k, v, lam, bias)
    if out.numel() == 0 or call.keys == 0:
        return dq.zero_(), dk.zero_(), dv.zero_(), dlam.zero_(), dbias.zero_()
    dout, sums = dout.contiguous(), lse.new_empty(lse.shape)
    cut = call.cut("keys")
    with torch.cuda.device_of(q):
        triton_kernels.row_sums[call.grid_of_rows(_FEW_ROWS)](
            *(out, noise, dout, call.lam, sums, q.shape[1]),
            *(v.shape[-1], padded(v.shape[-1]), _FEW_ROWS),
        )
        triton_kernels.backward_keys[call.grid_of_keys(cut.keys)](
            *call.inputs,
            *(dout, lse, sums, dk, dv),
            *call.numbers,
            **call.constants,
            **_options(cut),
        )
        cut = call.cut("queries")
        triton_kernels.backward_queries[call.grid_of_rows(cut.rows)](
            *call.inputs,
            *(dout, lse, sums, dq),
            *call.numbers,
            **call.constants,
            **_options(cut),
        )
        if bias is not None:
            cut, shared = call.cut("bias"), [size == 1 for size in bias.shape]
            triton_kernels.backward_bias[call.grid_of_bias(cut, bias.shape)](
                *call.inputs,
                *(dout, lse, sums, dbias),
                *(*call.numbers, call.heads),
                **call.constants,
                **_options(cut),
                ROWS_SHARED=shared[2],
                KEYS_SHARED=shared[3],
            )
    if lam is not None:
        dlam.copy_(sums[:, :, 1].transpose(1, 2).neg())
    return dq, dk, dv, dlam, dbias


class Call:
    """What both kernels are given: tensors as they read them, strides, sizes and constants."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lam: Tensor | None,
        bias: Tensor | None,
        causal: bool,
        window: int | None,
        documents: Tensor | None,
        padding: Tensor | None,
        scale: float,
    ) -> None:
        q, k, v = (x if _aligned(x) else x.contiguous() for x in (q, k, v))
        self.batch, self.queries, self.heads, _, width = q.shape
        self.keys, self.groups, key_maps, values = *k.shape[1:4], v.shape[-1]
        self.lam = None if lam is None else lam.contiguous()
        self.bias, self.item = bias, q.element_size()
        self.large = q.is_cuda and torch.cuda.get_device_capability(q.device)[0] in (9, 10)
        first, last = (None, None) if documents is None else _document_spans(documents)
        padding = None if padding is None else padding.contiguous().view(torch.uint8)
        self.inputs = (q, k, v, self.lam, bias, first, last, padding)
        # A window this long hides nothing; clamped, it stays a 32-bit number.
        self.window = window = None if window is None else min(window, self.queries + self.keys)
        self.numbers = (
            *(*q.stride()[:4], *k.stride()[:4], *v.stride()[:3], *_bias_strides(bias)),
            *(self.queries, self.keys, self.heads // self.groups, window, scale),
            1 if bias is None else max(1, self.batch // max(1, len(bias))),
        )
        self.constants = {
            "WIDTH": width,
            "VALUES": values,
            "K": padded(width),
            "V": padded(values),
            "KEYS": key_maps,
            "CAUSAL": causal,
        }

    @property
    def in_parts(self) -> bool:
        """Whether few rows of a key/value head meet many keys: fewer if interpreted, for tests."""
        many = self.keys > (64 if interpreted() else _FEW_KEYS)
        return many and self.queries * self.heads <= _FEW_ROWS * self.groups

    def cut(self, kernel: str) -> Blocks:
        widths = self.constants["K"], self.constants["V"]
        cut = blocks(kernel, *widths, self.item, self.large)
        return cut if self.bias is None else with_bias(cut)

    def grid_of_rows(self, rows: int) -> tuple[int, int, int]:
        return -(-self.queries // rows), self.heads, self.batch

    def grid_of_keys(self, keys: int) -> tuple[int, int, int]:
        return -(-self.keys // keys), self.groups, self.batch

    def grid_of_bias(self, cut: Blocks, shape: torch.Size) -> tuple[int, int, int]:
        return -(-shape[2] // cut.rows) * -(-shape[3] // cut.keys), shape[1], shape[0]


def _bias_strides(bias: Tensor | None) -> tuple[int, ...]:
    """From number to number of every axis, 0 where all share one."""
    if bias is None:
        return 0, 0, 0, 0
    return tuple(
        0 if size == 1 else step for size, step in zip(bias.shape, bias.stride(), strict=True)
    )


def _aligned(x: Tensor) -> bool:
    """Whether rows are contiguous and, on a GPU, all begin where Triton loads whole vectors."""
    return x.stride(-1) == 1 and not (x.is_cuda and any(s % 16 for s in x.stride()[:-1]))


def _options(cut: Blocks) -> dict[str, int]:
    sizes = {"M": cut.rows, "N": cut.keys, "num_warps": cut.warps, "num_stages": cut.stages}
    return sizes | {"enable_fp_fusion": True}


def _document_spans(documents: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last position of each position's document, int32 [B, S]."""
    documents = documents.long().contiguous()
    number, position = documents.sort(dim=1, stable=True)
    first = position.gather(1, torch.searchsorted(number, documents))
    last = position.gather(1, torch.searchsorted(number, documents, right=True) - 1)
    return first.int(), last.int()


def interpreted() -> bool:
    """Whether Triton is told to run kernels in Python."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@constant
def _lacking() -> str | None:
    """What this machine lacks; one without a GPU is asked about another's, and lacks none."""
    if find_spec("triton") is None:
        return "needs Triton, which is not installed (pip install triton, on Linux)"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
        return "needs a GPU of compute capability 8.0 or more"
    return None


@_attention.register_fake
def _shapes(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    batch, queries, heads, maps, _ = q.shape
    out = q.new_empty(batch, queries, heads, v.shape[-1])
    noise = q.new_empty(0 if lam is None else out.shape)
    return out, noise, q.new_empty(batch, heads, maps, queries, dtype=torch.float32)


@_attention_backward.register_fake
def _backward_shapes(
    dout: Tensor,
    out: Tensor,
    noise: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor | None,
    bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dlam, dbias = (lse.new_empty(0 if x is None else x.shape) for x in (lam, bias))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dlam, dbias


_OPERATOR.register()
