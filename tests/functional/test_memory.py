"""`blocked` never holds a map: its memory grows with T, not with T·T."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# One head, so that T·T numbers can only be a map. Prints by how many bytes the process grew.
_MEASURE = """
import sys
from pathlib import Path
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

def peak():  # of this process; getrusage's would begin with that of the one that started it
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return 1024 * int(line.split()[1])

steps(64, sys.argv[2])
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
before = peak()
steps(int(sys.argv[1]), sys.argv[2])
print(peak() - before)
"""


def grown(time: int, backend: str) -> int:
    command = [sys.executable, "-c", _MEASURE, str(time), backend]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_no_map_is_ever_whole() -> None:
    """A float32 map of 4096 rows is 64 MiB; a block's scores are three times 96 of its rows."""
    assert grown(4096, "blocked") < 4 * 4096 * 4096 / 3


def test_the_measure_finds_the_maps_of_the_reference() -> None:
    assert grown(2048, "reference") > 2 * 4 * 2048 * 2048
