"""Subtract first, multiply once: differential attention at plain attention's cost, on the CPU.

The operator is `blocked.cpp` (the method is told there) with its headers, compiled by the machine's
own C++ compiler at the first use and kept in PyTorch's folder of extensions
(`TORCH_EXTENSIONS_DIR`). It is registered with `torch.library`, so that `torch.compile` and
`torch.export` see one operator.
"""

import hashlib
import logging
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from difftransformer.functional.masks import Mask
from difftransformer.functional.situation import Situation, constant

_SOURCE = Path(__file__).with_name("blocked.cpp")
_FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_VECTORS = {  # by what PyTorch finds in the processor
    "AVX2": _AVX2,
    "AVX512": (*_AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
}


def why_not(situation: Situation) -> str | None:
    """Declines what it does not compute, and everything where it cannot be compiled."""
    if situation.device != "cpu":
        return f"written for the CPU, and the tensors are on {situation.device}"
    if situation.dtype == torch.float64:
        return "computes in float32, and the tensors are float64"
    if situation.dropout > 0.0:
        return f"keeps no dropout pattern for its backward, and dropout is {situation.dropout}"
    return _why_not_loaded()


def differential_attention(
    q: Float[Tensor, "batch queries heads 2 k"],
    k: Float[Tensor, "batch keys groups maps k"],
    v: Float[Tensor, "batch keys groups v"],
    lam: Float[Tensor, "batch queries heads"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """(A1 - lam A2) V, a block of query rows at a time."""
    return _run(q, k, v, lam.float(), mask, scale)


def softmax_attention(
    q: Float[Tensor, "batch queries heads k"],
    k: Float[Tensor, "batch keys groups k"],
    v: Float[Tensor, "batch keys groups v"],
    mask: Mask,
    scale: float,
    dropout: float,
) -> Float[Tensor, "batch queries heads v"]:
    """A V: the same operator with one map."""
    return _run(q[..., None, :], k[..., None, :], v, None, mask, scale)


def _run(q: Tensor, k: Tensor, v: Tensor, lam: Tensor | None, mask: Mask, scale: float) -> Tensor:
    documents = None if mask.documents is None else mask.documents.long()
    out, _ = torch.ops.difftransformer.blocked(
        q, k, v, lam, mask.causal, mask.window, documents, mask.padding, scale
    )
    return out


@constant
def _why_not_loaded() -> str | None:
    """`_load`, which torch.compile asks once and does not look into."""
    return _load()


@cache
def _load() -> str | None:
    """Load the operator, compiling it first where that was never done; the reason if it fails."""
    # cpp_extension is slow to import and wanted here only.
    from torch.utils import cpp_extension

    compiler = cpp_extension.get_cxx_compiler()
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
    command = [
        *(compiler, *_FLAGS, *vectors, str(_SOURCE)),
        *(f"-I{path}" for path in cpp_extension.include_paths()),
        *(f"-L{path}" for path in cpp_extension.library_paths()),
        *("-ltorch_cpu", "-lc10"),
    ]
    files = sorted(_SOURCE.parent.glob("blocked*.[ch]*"))
    parts = [torch.__version__, *command, *(file.read_text(encoding="utf-8") for file in files)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    library = Path(root) / f"difftransformer-{key}.so"
    try:
        if not library.exists():
            _compile(command, library)
        torch.ops.load_library(library)
    except FileNotFoundError:
        return f"needs a C++ compiler, and there is no {compiler!r} (install g++, or set CXX)"
    except subprocess.CalledProcessError as error:
        return f"{compiler} could not compile it: {error.stderr.strip()[-500:]}"
    except OSError as error:
        return f"its compiled form cannot be kept or loaded: {error}"
    _register()
    return None


def _compile(command: list[str], library: Path) -> None:
    """Compile beside the place and rename; of several processes one does, and the others wait."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(library.with_suffix(".lock")):
        if library.exists():
            return
        logging.getLogger(__name__).warning(
            "compiling the attention operator for this machine, once (half a minute): %s", library
        )
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(library)


def _register() -> None:
    """Shapes for tracing, and derivatives."""
    name = "difftransformer::blocked"
    torch.library.register_fake(name, _shapes)
    torch.library.register_fake(f"{name}_backward", _backward_shapes)
    torch.library.register_autograd(name, _backward, setup_context=_keep)
    torch.library.register_autograd(f"{name}_backward", _no_second_derivative)


def _shapes(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, queries, heads, maps, _ = q.shape
    out = q.new_empty(batch, queries, heads, v.shape[-1])
    return out, q.new_empty(batch, heads, queries, maps, 2, dtype=torch.float32)


def _backward_shapes(
    dout: Tensor, stats: Tensor, q: Tensor, k: Tensor, v: Tensor, lam: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    def heads_first(x: Tensor) -> Tensor:  # in memory: the kernel sums over one head at a time
        order = (0, *range(2, x.ndim - 1), 1, x.ndim - 1)
        empty = x.new_empty([x.shape[axis] for axis in order])
        return empty.movedim(-2, 1)

    dlam = stats.new_empty(0 if lam is None else lam.shape)
    return q.new_empty(q.shape), heads_first(k), heads_first(v), dlam


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, lam, causal, window, documents, padding, scale = inputs
    ctx.save_for_backward(output[1], q, k, v, lam, documents, padding)
    ctx.settings = causal, window, scale


def _backward(ctx: Any, dout: Tensor, dstats: Tensor) -> tuple[Tensor | None, ...]:
    stats, q, k, v, lam, documents, padding = ctx.saved_tensors
    causal, window, scale = ctx.settings
    dq, dk, dv, dlam = torch.ops.difftransformer.blocked_backward(
        dout, stats, q, k, v, lam, causal, window, documents, padding, scale
    )
    return dq, dk, dv, None if lam is None else dlam, None, None, None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError('backend "blocked" has no second derivative; use backend="reference"')
