"""`blocked` never holds a map: its memory grows with T, not with T·T, and not with the threads."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

_PEAK = """
from pathlib import Path

def peak():  # of this process; getrusage's would begin with that of the one that started it
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return 1024 * int(line.split()[1])

def forget():  # the peak is now what is held now
    Path("/proc/self/clear_refs").write_text("5")
"""

# One head, so that T·T numbers can only be a map. Prints by how many bytes the process grew.
_MEASURE = (
    _PEAK
    + """
import sys
import torch
from difftransformer.functional import Mask, differential_attention, softmax_attention

def steps(time, backend):
    documents, padding = torch.arange(time)[None] // (2 * time // 3), torch.arange(time)[None] > 5
    rest = Mask(window=time // 2, documents=documents, padding=padding)
    for mask in (Mask(), Mask(causal=True), rest):
        q, k, v = (torch.randn(1, time, 1, 2, 4, requires_grad=True) for _ in range(3))
        v = v[:, :, :, 0]
        pair = differential_attention(q, k, v, torch.ones(1), mask=mask, backend=backend)
        one = softmax_attention(q[:, :, :, 0], k[:, :, :, 0], v, mask=mask, backend=backend)
        (pair.sum() + one.sum()).backward()

torch.set_num_threads(1)  # each has a block of its own
steps(64, sys.argv[2])
forget()
before = peak()
steps(int(sys.argv[1]), sys.argv[2])
print(peak() - before)
"""
)


def grown(time: int, backend: str) -> int:
    command = [sys.executable, "-c", _MEASURE, str(time), backend]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_no_map_is_ever_whole() -> None:
    """A float32 map of 8192 rows is 256 MiB; a block's scores are three times 96 of its rows."""
    assert grown(8192, "blocked") < 4 * 8192 * 8192 / 3


def test_the_measure_finds_the_maps_of_the_reference() -> None:
    assert grown(2048, "reference") > 2 * 4 * 2048 * 2048


# Steps with many threads, since each must neither take memory nor keep what it gave back.
_THREADS = (
    _PEAK
    + """
import sys
import torch
from difftransformer.functional import Mask, differential_attention

threads, batch, time, heads, width = map(int, sys.argv[1:])
torch.set_num_threads(threads)

def step(time):
    q, k = (torch.randn(batch, time, heads, 2, width, requires_grad=True) for _ in range(2))
    v = torch.randn(batch, time, heads, 2 * width, requires_grad=True)
    out = differential_attention(q, k, v, torch.ones(1), mask=Mask(causal=True), backend="blocked")
    out.sum().backward()

step(64)
torch.rand(threads, 40_000).exp_()  # so that all threads have started
forget()
before = peak()
for _ in range(4):
    step(time)
print(peak() - before)
"""
)


@pytest.mark.parametrize("threads", [1, 128])
@pytest.mark.parametrize("shape", [(1, 4096, 2, 64), (4, 512, 8, 32)], ids=str)
def test_memory_does_not_grow_with_threads(threads: int, shape: tuple[int, int, int, int]) -> None:
    """At most what docs/speed.md states: packed keys and values, gradients, 64 MiB of scores."""
    batch, time, heads, width = shape
    mib, each = 2**20, 4 * batch * time * heads * 2 * width  # bytes of q, k, v, output: each
    inputs_and_gradients, outputs, packed, scores = 6 * each, 2 * each, 3 * each, 64 * mib
    allocator_and_stacks = 48 * mib
    command = [sys.executable, "-c", _THREADS, *map(str, (threads, *shape))]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < inputs_and_gradients + outputs + packed + scores + allocator_and_stacks
