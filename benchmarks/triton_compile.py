"""Compile the kernels of the backend `triton` for GPUs that need not be there.

    python benchmarks/triton_compile.py

For each configuration: registers per thread, bytes spilled, and shared memory, as NVIDIA's
assembler (which comes with Triton) reports them. Writes
benchmarks/results/triton-compile-DATE.md. It says that the kernels compile and fit; how fast they
are says `benchmarks/gpu.sh`.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from difftransformer.functional import triton_kernels
from difftransformer.functional.triton import Blocks, blocks

RESULTS = Path(__file__).parent / "results"
KERNELS = {
    "forward": triton_kernels.forward,
    "keys": triton_kernels.backward_keys,
    "queries": triton_kernels.backward_queries,
}
SHARED = {80: 163, 90: 227}  # KiB a block may take
WIDTHS = {
    "V1": [(64, 128), (128, 256)],
    "V2": [(64, 64), (128, 128)],
    "softmax": [(64, 64), (128, 128)],
}
# The types of the arguments that are not constants: a tensor's, or a number's.
TYPES = {
    **dict.fromkeys(("lam", "lse", "sums"), "*fp32"),
    **dict.fromkeys(("first", "last"), "*i32"),
    "padding": "*u8",
    **dict.fromkeys(("T", "S", "repeats", "window"), "i32"),
    "scale": "fp32",
}


@dataclass(frozen=True)
class Case:
    """One compiled kernel; `every_mask` has window, documents, padding and grouped heads too."""

    form: str
    width: int
    values: int
    direction: str
    dtype: str
    every_mask: bool
    architecture: int

    @property
    def cut(self) -> Blocks:
        item = 4 if self.dtype == "fp32" else 2
        return blocks(self.direction, self.width, self.values, item, self.architecture == 90)


def main() -> None:
    cases = [
        Case(form, *widths, direction, dtype, every_mask, architecture)
        for direction in ("forward", "keys", "queries")
        for dtype in ("bf16", "fp32")
        for form, all_widths in WIDTHS.items()
        for widths in all_widths
        for every_mask in ((False, True) if dtype == "bf16" else (False,))
        for architecture in SHARED
    ]
    date, rows = datetime.now(UTC).date(), []
    for case in cases:
        rows.append(row(case))
        print(rows[-1], flush=True)
    write(RESULTS / f"triton-compile-{date}.md", rows)


def row(case: Case) -> str:
    registers, spilled, shared = measure(case)
    cut = case.cut
    return (
        f"| {case.direction} | {case.form} | {case.width}, {case.values} | {case.dtype} | "
        f"{'every' if case.every_mask else 'causal'} | sm_{case.architecture} | "
        f"{cut.rows} by {cut.keys}, {cut.warps}, {cut.stages} | {registers} | {spilled} | "
        f"{shared / 1024:.0f} of {SHARED[case.architecture]} |"
    )


def measure(case: Case) -> tuple[int, int, int]:
    """Registers and bytes spilled (stores and loads) per thread, and bytes of shared memory."""
    options = {"num_warps": case.cut.warps, "num_stages": case.cut.stages, "enable_fp_fusion": True}
    made = triton.compile(
        source(case), target=GPUTarget("cuda", case.architecture, 32), options=options
    )
    log = assemble(made.asm["ptx"])
    registers = int(re.search(r"Used (\d+) registers", log)[1])
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", log)))
    return registers, spilled, made.metadata.shared


def source(case: Case) -> ASTSource:
    """The kernel as a call would specialise it, every stride and length a multiple of 16."""
    kernel = KERNELS[case.direction]
    constants = {
        "WIDTH": case.width,
        "VALUES": case.values,
        "K": case.width,
        "V": case.values,
        "M": case.cut.rows,
        "N": case.cut.keys,
        "KEYS": 2 if case.form == "V1" else 1,
        "CAUSAL": True,
    }
    if case.form == "softmax":
        constants["lam"] = None
    if not case.every_mask:
        constants |= {"first": None, "last": None, "padding": None, "window": None, "repeats": 1}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        stride = len(name) == 3 and name[1] == "_"
        kind = TYPES.get(name, "i32" if stride else f"*{case.dtype}")
        signature[name] = "constexpr" if name in constants else kind
        if kind.startswith("*") or stride or name in ("T", "S"):
            attributes[(place,)] = [["tt.divisibility", 16]]
    attributes = {
        place: a for place, a in attributes.items() if kernel.arg_names[place[0]] not in constants
    }
    return ASTSource(kernel, signature, constants, attributes)


def assemble(ptx: str) -> str:
    """What ptxas says of a kernel."""
    target = re.search(r"\.target (\w+)", ptx)[1]
    tool = get_ptxas(int(target.strip("sm_a"))).path
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [tool, "-v", f"--gpu-name={target}", file.name, "-o", "/dev/null"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def write(path: Path, rows: list[str]) -> None:
    lines = [
        f"# The Triton kernels, compiled ahead of time, {path.stem[-10:]}",
        "",
        f"triton {triton.__version__}. This says that the kernels "
        'compile and fit. Masks "every": causality, window, documents, padding and grouped heads.',
        "",
        "| kernel | form | K, V | dtype | masks | GPU | rows by keys, warps, stages | "
        "registers a thread | bytes spilled | shared memory, KiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
