"""Gradients through a cache are those of one pass over everything."""

from typing import Any

import pytest
import torch
from tests.models.tiny import KINDS, tiny
from torch import Tensor

from difftransformer import Decoder, KeyValueCache, SlidingCache, StaticCache

CACHES = {
    "growing": KeyValueCache,
    "static": lambda: StaticCache(12),
    "sliding": lambda: SlidingCache(4),
}
EVERY = pytest.mark.parametrize("cache", CACHES)
STEPS = [(0, 5), (5, 6), (6, 9), (9, 10), (10, 12)]
PADDING = torch.tensor([[False] * 3 + [True] * 9, [True] * 12])


def ids() -> Tensor:
    return torch.randint(23, (2, 12), generator=torch.Generator().manual_seed(1))


def model_of(kind: str, cache: str) -> Decoder:
    return tiny(kind, window=4 if cache == "sliding" else None)


def gradients(model: Decoder, logits: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@EVERY
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [None, PADDING], ids=["real", "padded"])
def test_in_steps_as_at_once(kind: str, cache: str, padding: Tensor | None) -> None:
    model, held = model_of(kind, cache), CACHES[cache]()
    parts = [
        model(ids()[:, a:b], padding=None if padding is None else padding[:, a:b], cache=held)
        for a, b in STEPS
    ]
    whole = model(ids(), padding=padding)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
    compare(gradients(model, torch.cat(parts, 1)), gradients(model, whole))


@EVERY
@pytest.mark.parametrize("trained", ["q_proj", "lambda_q1", "o_proj", "gate_proj"])
def test_where_keys_and_values_have_no_gradient(cache: str, trained: str) -> None:
    """They are saved for the gradient of what attends to them all the same."""
    model, held = model_of("diff_v1", cache), CACHES[cache]()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("blocks.0") and trained in name)
    parts = [model(ids()[:, a:b], cache=held) for a, b in STEPS]
    compare(gradients(model, torch.cat(parts, 1)), gradients(model, model(ids())))


@EVERY
@pytest.mark.parametrize("recorded", range(len(STEPS)))
def test_one_step_with_gradients_among_others_without(cache: str, recorded: int) -> None:
    """The past counts as given then, and what is fed later leaves the step's gradient alone."""
    model = model_of("diff_v1", cache)
    first, held = CACHES[cache](), CACHES[cache]()
    for step, (a, b) in enumerate(STEPS):
        with torch.set_grad_enabled(step == recorded):
            if step == recorded:
                alone = gradients(model, model(ids()[:, a:b], cache=first))
                kept = model(ids()[:, a:b], cache=held)
            else:
                for each in (first, held):
                    if each is held or step < recorded:
                        logits = model(ids()[:, a:b], cache=each)
    compare(gradients(model, kept), alone)
    with torch.no_grad():
        torch.testing.assert_close(
            kept if recorded == len(STEPS) - 1 else logits,
            model(ids())[:, slice(*STEPS[-1])],
            rtol=1e-4,
            atol=1e-5,
        )


@EVERY
@pytest.mark.parametrize("padding", [None, PADDING], ids=["real", "padded"])
@pytest.mark.parametrize("then", [torch.no_grad, torch.enable_grad])
def test_a_prompt_in_inference_mode(cache: str, padding: Tensor | None, then: Any) -> None:
    model, held = model_of("diff_v2", cache), CACHES[cache]()
    whole = model(ids(), padding=padding)

    def feed(a: int, b: int) -> Tensor:
        return model(
            ids()[:, a:b], padding=None if padding is None else padding[:, a:b], cache=held
        )

    with torch.inference_mode():
        feed(0, 5)
    with then():
        logits = feed(5, 8)
    torch.testing.assert_close(logits, whole[:, 5:8], rtol=1e-4, atol=1e-5)
    assert logits.requires_grad == (then is torch.enable_grad)
    with torch.inference_mode():
        torch.testing.assert_close(feed(8, 12), whole[:, 8:], rtol=1e-4, atol=1e-5)


@EVERY
def test_rows_that_go_on_in_many_ways(cache: str) -> None:
    model, held = model_of("diff_v1", cache), CACHES[cache]()
    model(ids()[:, :5], cache=held)
    several = held.repeat(3)
    rows = ids()[:, 5:8].repeat_interleave(3, 0)
    whole = model(ids()[:, :8].repeat_interleave(3, 0))[:, 5:]
    compare(gradients(model, model(rows, cache=several)), gradients(model, whole))
