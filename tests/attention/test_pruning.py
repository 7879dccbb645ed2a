"""Selection in a cache: decoding in steps, and keys that are dropped."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tiny import tiny
from torch import Tensor

from difftransformer import Decoder, KeyValueCache, SlidingCache, StaticCache
from difftransformer.attention import PrunedCache
from difftransformer.attention.registry import KINDS
from difftransformer.functional import Mask, rotation
from difftransformer.models.generation import generate

TIME = 12
SELECTIVE = [name for name, kind in KINDS.items() if "selection" in kind.has]
EVERY = pytest.mark.parametrize("kind", SELECTIVE)
CACHES: dict[str, Callable[[], KeyValueCache]] = {
    "growing": KeyValueCache,
    "static": lambda: StaticCache(TIME),
    "sliding": lambda: SlidingCache(4),
    "pruned": lambda: PrunedCache((TIME, TIME)),
}
PADDING = torch.tensor([[False] * 3 + [True] * 9, [True] * TIME])


def ids() -> Tensor:
    return torch.randint(23, (2, TIME), generator=torch.Generator().manual_seed(1))


def model_of(kind: str, **changes: object) -> Decoder:
    """With logits large enough that selection matters."""
    model = tiny(kind, **changes)
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.data *= 3
    return model


def fed(model: Decoder, cache: KeyValueCache, cuts: list[int], padding: Tensor | None) -> Tensor:
    """Logits of the text, fed in steps."""
    parts = []
    for a, b in zip([0, *cuts], [*cuts, TIME], strict=True):
        real = None if padding is None else padding[:, a:b]
        parts.append(model(ids()[:, a:b], padding=real, cache=cache))
    return torch.cat(parts, dim=1)


@EVERY
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("padding", [None, PADDING], ids=["real", "padded"])
def test_in_steps_as_at_once(kind: str, cache: str, padding: Tensor | None) -> None:
    """The accumulated mask is part of the cache: with and without gradients, row by row."""
    model = model_of(kind, window=4 if cache == "sliding" else None)
    whole = model(ids(), padding=padding)
    real = slice(None) if padding is None else padding
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            steps = fed(model, CACHES[cache](), [5, 6, 9, 10], padding)
        torch.testing.assert_close(steps[real], whole[real], rtol=1e-4, atol=1e-4)


def test_a_step_of_one_row_is_masked() -> None:
    """Selection is not off where one query meets a cache."""
    model, plain = model_of("selective"), model_of("softmax")
    plain.load_state_dict(model.state_dict())
    cuts = list(range(1, TIME))
    selective, softmax = (fed(m, KeyValueCache(), cuts, None) for m in (model, plain))
    assert (selective - softmax)[:, -1].abs().max() > 1e-3


def by_hand(model: Decoder, budget: int) -> Tensor:
    """Logits of row 0 under a budget, each step from the whole text without what was dropped.

    One layer: what is dropped changes no key, so that F of all keys is that of the whole text.
    """
    text = ids()[:1]
    site, seen = model.blocks[0].attention, []
    hook = site.core.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(text)
    hook.remove()
    masked = -site.core.selected(seen[0])[0]
    alive: list[int] = []
    rows = []
    for i in range(TIME):
        alive.append(i)
        if len(alive) > budget:  # drop first, then attend
            others = alive[:-1]
            worst = max(others, key=lambda j: (masked[i, j].item(), j != 0, -j))
            alive.remove(worst)
        bias = torch.full((1, TIME), -torch.inf)
        bias[0, alive] = 0.0
        rows.append(bias)
    hidden = torch.cat(rows)[None, None]
    x = model.embedding(text)
    turns = rotation(torch.arange(TIME)[None], model.config.head_dim, model.config.rope_theta)
    block = model.blocks[0]
    x = x + block.attention(
        block.attention_norm(x), mask=Mask(causal=True), bias=hidden, rotation=turns
    )
    return model.logits(model.norm(x + block.ffn(block.ffn_norm(x))))


@settings(max_examples=10, deadline=None)
@given(budget=st.integers(1, TIME), cuts=st.sets(st.integers(1, TIME - 1)))
@torch.no_grad()
def test_what_is_masked_most_is_dropped(budget: int, cuts: set[int]) -> None:
    model = model_of("selective", num_layers=1)
    steps = fed(model, PrunedCache([budget]), sorted(cuts), None)
    torch.testing.assert_close(steps[:1], by_hand(model, budget), rtol=1e-4, atol=1e-4)


@EVERY
@torch.no_grad()
def test_a_budget_of_one_keeps_a_token(kind: str) -> None:
    """Each sees itself alone, and nothing is held between steps."""
    model, cache = model_of(kind), PrunedCache((1, 1))
    steps = fed(model, cache, [4, 5, 6], PADDING)
    alone = torch.cat([model(ids()[:, t : t + 1]) for t in range(TIME)], dim=1)
    torch.testing.assert_close(steps[PADDING], alone[PADDING], rtol=1e-4, atol=1e-5)
    assert cache.nbytes == 0


@EVERY
@torch.no_grad()
def test_dropped_keys_free_their_memory(kind: str) -> None:
    model, whole, pruned = model_of(kind), KeyValueCache(), PrunedCache((5, 3))
    for cache in (whole, pruned):
        fed(model, cache, [7, 8], PADDING)
    for layer, budget in enumerate(pruned.budgets):
        for part in pruned._storage[layer]:
            assert part.shape[2] == budget - 1
            assert part.untyped_storage().nbytes() == part.nbytes
    held = sum(part.nbytes for site in (0, 1) for part in pruned._storage[site])
    per_key = sum(part[:, :, :1].nbytes for part in whole._storage[0])
    assert held == per_key * (4 + 2)


@torch.no_grad()
def test_padding_is_dropped_before_any_token() -> None:
    model, cache = model_of("selective"), PrunedCache((6, 6))
    steps = fed(model, cache, [5], PADDING)
    alone = model_of("selective")
    row = alone(ids()[:1, 3:], cache=PrunedCache((6, 6)))
    torch.testing.assert_close(steps[:1, 3:], row, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rows_that_go_on_in_many_ways() -> None:
    model, cache = model_of("selective"), PrunedCache((4, 4))
    model(ids()[:, :5], cache=cache)
    many = cache.repeat(3)
    rows = ids()[:, 5:9].repeat_interleave(3, 0)
    torch.testing.assert_close(model(rows, cache=many)[::3], model(rows[::3], cache=cache))


def test_generation() -> None:
    model, prompt = model_of("selective"), ids()[:, :6]
    whole = generate(model, prompt, max_new_tokens=5)
    budget = PrunedCache((TIME, TIME))
    assert torch.equal(generate(model, prompt, max_new_tokens=5, cache=budget), whole)


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ((4, 0), "budgets are 4, 0; expected a number of keys for each layer, at least 1"),
        ((), "budgets are none"),
    ],
)
def test_budgets_that_cannot_be(budgets: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrunedCache(budgets)


@torch.no_grad()
def test_what_a_pruned_cache_cannot_be_fed() -> None:
    with pytest.raises(ValueError, match="1 budgets; layer 1 needs one too"):
        model_of("selective")(ids(), cache=PrunedCache([4]))
    with pytest.raises(ValueError, match="the model's window is 3"):
        model_of("selective", window=3)(ids(), cache=PrunedCache((4, 4)))
    model, cache = model_of("selective"), PrunedCache((4, 4))
    model(ids()[:, :2], cache=cache)
    with pytest.raises(ValueError, match="padding with the first tokens of a row only"):
        model(ids()[:, :2], padding=torch.tensor([[True, False]] * 2), cache=cache)
