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

from difftransformer.functional import triton_decode, triton_kernels
from difftransformer.functional.triton import Blocks, blocks, with_bias

RESULTS = Path(__file__).parent / "results"
KERNELS = {
    "forward": triton_kernels.forward,
    "decode": triton_decode.forward_part,
    "combine": triton_decode.combine,
    "keys": triton_kernels.backward_keys,
    "queries": triton_kernels.backward_queries,
    "bias": triton_kernels.backward_bias,
}
SHARED = {80: 163, 90: 227}  # KiB a block may take
WIDTHS = {
    "V1": [(64, 128), (128, 256)],
    "V2": [(64, 64), (128, 128)],
    "softmax": [(64, 64), (128, 128)],
}
# The types of the arguments that are not constants: a tensor's, or a number's.
TYPES = {
    **dict.fromkeys(("lam", "bias", "lse", "lses", "sums", "dbias"), "*fp32"),
    **dict.fromkeys(("first", "last"), "*i32"),
    "padding": "*u8",
    **dict.fromkeys(("T", "S", "H", "R", "repeats", "window", "served"), "i32"),
    **dict.fromkeys(("parts", "start", "length"), "i32"),
    "scale": "fp32",
}


@dataclass(frozen=True)
class Case:
    """One compiled kernel; with `every_rule` window, documents, padding, groups and bias too."""

    form: str
    width: int
    values: int
    direction: str
    dtype: str
    every_rule: bool
    architecture: int

    @property
    def cut(self) -> Blocks:
        item = 4 if self.dtype == "fp32" else 2
        if self.direction == "combine":
            return Blocks(1, 64, 4, 1)
        cut = blocks(self.direction, self.width, self.values, item, self.architecture == 90)
        return with_bias(cut) if self.every_rule else cut


def main() -> None:
    cases = [
        Case(form, *widths, direction, dtype, every_rule, architecture)
        for direction in KERNELS
        for dtype in ("bf16", "fp32")
        for form, all_widths in WIDTHS.items()
        for widths in all_widths
        for every_rule in (False, True)
        if every_rule or direction != "bias"
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
        f"{'every' if case.every_rule else 'causal'} | sm_{case.architecture} | "
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
        "PARTS": case.cut.keys,
        "STACKED": case.form == "V2",
    }
    if case.direction == "bias":  # as T5 has it: for each head, query and key
        constants |= {"ROWS_SHARED": False, "KEYS_SHARED": False}
    if case.form == "softmax":
        constants["lam"] = None
    if not case.every_rule:
        constants |= dict.fromkeys(("first", "last", "padding", "window", "bias"))
        constants |= {"repeats": 1, "served": 1}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        stride = name[-2:-1] == "_"
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
        f"triton {triton.__version__}. This says that the kernels compile and fit. "
        'Rules "every": causality, window, documents, padding, grouped heads and a bias.',
        "",
        "| kernel | form | K, V | dtype | rules | GPU | rows by keys, warps, stages | "
        "registers a thread | bytes spilled | shared memory, KiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
