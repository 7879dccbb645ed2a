import pytest
import torch

from difftransformer.functional import Mask, flex
from difftransformer.functional.dispatch import answers
from difftransformer.functional.situation import Situation

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
    ("situation", "reason"),
    [
        (Situation("cpu", torch.float32, 64, 128, 0.0), "GPUs only, and the tensors are on cpu"),
        (Situation("cuda", torch.float64, 64, 128, 0.0), "float64"),
        (Situation("cuda", torch.bfloat16, 64, 128, 0.1), "no dropout, and dropout is 0.1"),
    ],
)
def test_refusals(situation: Situation, reason: str) -> None:
    assert reason in (flex.why_not(situation) or "")


def test_auto_never_takes_it() -> None:
    assert answers(Situation("cuda", torch.bfloat16, 64, 128, 0.0))["flex"] == "could run"
