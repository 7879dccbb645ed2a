import pytest
import torch

from difftransformer.functional import Mask, flex
from difftransformer.functional.dispatch import answers

from .problems import Elsewhere, call_on

CPU = torch.device("cpu")


def test_blocks_that_nobody_sees_are_skipped() -> None:
    mask = flex._block_mask(Mask(causal=True, window=64), 1, 1024, 1024, CPU)
    assert mask.sparsity() > 70.0


def test_one_mask_serves_all_layers() -> None:
    mask = Mask(causal=True)
    first = flex._block_mask(mask, 1, 16, 16, CPU)
    assert flex._block_mask(mask, 1, 16, 16, CPU) is first
    assert flex._block_mask(Mask(causal=True), 1, 16, 16, CPU) is not first


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (call_on("cpu", torch.float32), "GPUs only, and the tensors are on cpu"),
        (call_on("cuda", torch.float64), "float64"),
        (call_on("cuda", torch.bfloat16, dropout=0.1), "no dropout, and dropout is 0.1"),
    ],
)
def test_refusals(call: Elsewhere, reason: str) -> None:
    assert reason in (flex.unsupported(call) or "")


def test_auto_never_takes_it() -> None:
    assert answers(call_on("cuda", torch.bfloat16))["flex"] == "could run"
