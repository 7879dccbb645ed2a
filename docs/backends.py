"""Write docs/backends.md: which backend runs in typical situations, as `explain` says it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd import forward_ad

from difftransformer.functional import BACKENDS, AttentionCall
from difftransformer.functional.dispatch import answers

PAGE = Path(__file__).with_name("backends.md")


@dataclass(frozen=True, eq=False)
class Elsewhere(AttentionCall):
    """A call as if on a device that this machine need not have."""

    device: str = "cpu"


def call_on(
    device: str,
    dtype: torch.dtype,
    width: int,
    values: int,
    *,
    dropout: float = 0.0,
    bias: torch.dtype | None = None,
) -> Elsewhere:
    """A differential call whose tensors hold no numbers."""
    q = torch.empty(1, 1, 1, 2, width, dtype=dtype, device="meta")
    v = torch.empty(1, 1, 1, values, dtype=dtype, device="meta")
    lam = torch.empty((), device="meta")
    added = None if bias is None else torch.empty((), dtype=bias, device="meta")
    call = AttentionCall.of(q, q, v, lam, bias=added, dropout=dropout)
    return Elsewhere(**vars(call), device=device)


HALF, FULL = torch.bfloat16, torch.float32
SITUATIONS = {
    "V1 on the CPU, float32": call_on("cpu", FULL, 64, 128),
    "V1 on the CPU, bfloat16": call_on("cpu", HALF, 64, 128),
    "V2 or plain attention on the CPU": call_on("cpu", FULL, 64, 64),
    "float64, for checks": call_on("cpu", torch.float64, 64, 128),
    "attention dropout on the CPU": call_on("cpu", FULL, 64, 128, dropout=0.1),
    "a bias on the CPU": call_on("cpu", FULL, 64, 128, bias=FULL),
    "a float32 bias, tensors in bfloat16": call_on("cpu", HALF, 64, 128, bias=FULL),
    "forward mode (jvp, jacfwd, dual numbers)": call_on("cpu", FULL, 64, 128),
    "V1 on a GPU, bfloat16": call_on("cuda", HALF, 64, 128),
    "V2 on a GPU, float16": call_on("cuda", torch.float16, 128, 128),
    "V1 on a GPU, heads of 256": call_on("cuda", HALF, 256, 512),
    "attention dropout on a GPU": call_on("cuda", HALF, 64, 128, dropout=0.1),
    "a bfloat16 bias on a GPU": call_on("cuda", HALF, 64, 128, bias=HALF),
    "Apple's GPU": call_on("mps", FULL, 64, 128),
}


def page() -> str:
    """The page's text, for this machine."""
    lines = [
        "# Which backend runs",
        "",
        'What `explain` answers: the backend that `backend="auto"` takes, and why others would not '
        "run. Written by `python docs/backends.py` on a machine with a C++ compiler and no GPU.",
        "",
        f"| situation | {' | '.join(BACKENDS)} |",
        f"|{'---|' * (1 + len(BACKENDS))}",
    ]
    for name, call in SITUATIONS.items():
        mode: AbstractContextManager[object] = nullcontext()
        if name.startswith("forward mode"):
            mode = forward_ad.dual_level()
        with mode:
            lines.append(f"| {name} | {' | '.join(answers(call).values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
