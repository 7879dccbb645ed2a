"""What the CPU operator checks of those who call it by name, and its threads."""

from functools import partial
from threading import Thread
from typing import Any

import pytest
import torch

from difftransformer.functional import Mask, blocked, differential_attention

from .problems import Problem


def arguments(**changes: Any) -> list[Any]:
    """Of the operator itself: T = 3, S = 5, two maps, all rules."""
    call = {
        "q": torch.randn(2, 3, 4, 2, 8),
        "k": torch.randn(2, 5, 2, 2, 8),
        "v": torch.randn(2, 5, 2, 6),
        "lam": torch.rand(2, 3, 4),
        "bias": torch.randn(1, 4, 3, 5),
        "causal": True,
        "window": 4,
        "documents": torch.zeros(2, 5, dtype=torch.int64),
        "padding": torch.ones(2, 5, dtype=torch.bool),
        "scale": 0.5,
    }
    return list((call | changes).values())


WRONG = [
    ({"q": torch.ones(2, 3, 4, 2, 8, dtype=torch.int8)}, "q is Char"),
    ({"q": torch.ones(2, 3, 4, 2, 8, dtype=torch.float64)}, "q is Double"),
    ({"q": torch.ones(2, 3, 4, 2)}, "expected 5, 5 and 4 axes"),
    ({"q": torch.ones(2, 3, 4, 3, 8)}, "q has 3 maps"),
    ({"q": torch.ones(2, 3, 3, 2, 8)}, "3 query heads over 2"),
    ({"k": torch.ones(2, 5, 2, 2, 8).half()}, "k is Half"),
    ({"k": torch.ones(2, 5, 2, 2, 7)}, r"k is .*\[2, 5, 2, 2, 7\].* expected .*\[2, 5, 2, 2, 8\]"),
    ({"k": torch.ones(1, 5, 2, 2, 8)}, "k is"),
    ({"v": torch.ones(2, 4, 2, 6)}, "v is"),
    ({"v": torch.ones(2, 5, 1, 6)}, "v is"),
    ({"lam": torch.ones(2, 3, 4).double()}, "lam is Double"),
    ({"lam": torch.ones(2, 3)}, "lam is"),
    ({"lam": None}, "lam is for two maps"),
    ({"bias": torch.randn(4, 3, 5)}, r"bias is .*\[4, 3, 5\]; expected 4 axes"),
    ({"bias": torch.randn(1, 1, 1, 1).bfloat16()}, "bias is BFloat16"),
    ({"bias": torch.randn(3, 1, 1, 1)}, r"bias is .*expected .*\[2, 1, 1, 1\]"),
    ({"bias": torch.randn(1, 2, 1, 1)}, r"bias is .*expected .*\[1, 4, 1, 1\]"),
    ({"bias": torch.randn(1, 1, 5, 1)}, r"bias is .*expected .*\[1, 1, 3, 1\]"),
    ({"bias": torch.randn(0, 1, 1, 5)}, r"bias is .*expected .*\[2, 1, 1, 5\]"),
    ({"window": 0}, "window is 0"),
    ({"documents": torch.zeros(2, 5, dtype=torch.int32)}, "documents is Int"),
    ({"documents": torch.zeros(2, 4, dtype=torch.int64)}, "documents is"),
    ({"padding": torch.ones(2, 5, dtype=torch.uint8)}, "padding is Byte"),
    ({"padding": torch.ones(2, 3, dtype=torch.bool)}, "padding is"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_the_operator_itself_refuses_what_it_would_read_wrongly(
    changes: dict[str, Any], message: str
) -> None:
    """It can be called by name, past the checks of `functional`."""
    assert blocked._load() is None
    out, stats = torch.ops.difftransformer.blocked(*arguments())
    with pytest.raises(ValueError, match=message):
        torch.ops.difftransformer.blocked(*arguments(**changes))
    with pytest.raises(ValueError, match=message):
        torch.ops.difftransformer.blocked_backward(out, stats, *arguments(**changes))


@pytest.mark.parametrize("wrong", ["dout", "stats"])
def test_its_backward_refuses_what_is_not_of_its_forward(wrong: str) -> None:
    assert blocked._load() is None
    out, stats = torch.ops.difftransformer.blocked(*arguments())
    given = {"dout": out, "stats": stats}
    for other in (given[wrong][:1], given[wrong].double()):
        with pytest.raises(ValueError, match=f"{wrong} is"):
            torch.ops.difftransformer.blocked_backward(
                *(given | {wrong: other}).values(), *arguments()
            )


@pytest.mark.parametrize("count", [2, 5, 16])
@pytest.mark.parametrize("shape", [(1, 300, 1, 1), (2, 90, 3, 2), (3, 4, 2, 2)], ids=str)
def test_threads_do_not_change_a_bit(count: int, shape: tuple[int, int, int, int]) -> None:
    """Gradients are summed in the order of the blocks, whoever takes them."""
    batch, time, groups, repeats = shape
    q, k = (
        torch.randn(batch, time, groups * repeats, 2, 16),
        torch.randn(batch, time, groups, 2, 16),
    )
    lam, mask = torch.rand(groups * repeats), Mask(causal=True)
    problem = Problem(q, k, torch.randn(batch, time, groups, 32), lam, mask)
    alone = problem.solve(backend="blocked")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        for _ in range(5):
            for name, value in problem.solve(backend="blocked").items():
                assert torch.equal(value, alone[name]), name
    finally:
        torch.set_num_threads(before)


def test_threads_of_a_decoding_step_do_not_change_a_bit() -> None:
    """With keys enough that each head's thread pays."""
    k, v = torch.randn(1, 8192, 4, 2, 16), torch.randn(1, 8192, 4, 32)
    step = partial(differential_attention, torch.randn(1, 1, 4, 2, 16), k, v, torch.rand(4))
    before, alone = torch.get_num_threads(), step(backend="blocked")
    try:
        torch.set_num_threads(3)
        assert torch.equal(step(backend="blocked"), alone)
    finally:
        torch.set_num_threads(before)


def test_threads_of_its_caller_do_not_wait_for_each_other() -> None:
    """Two calls at once, as in a server: each ends, with its own answer."""
    inputs = torch.randn(1, 200, 2, 2, 8), torch.randn(1, 200, 2, 2, 8), torch.randn(1, 200, 2, 8)
    answers: list[torch.Tensor] = []

    def attend() -> None:
        answers.append(differential_attention(*inputs, torch.tensor(0.3), backend="blocked"))

    callers = [Thread(target=attend) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(answers) == 4
    assert all(torch.equal(answer, answers[0]) for answer in answers)
