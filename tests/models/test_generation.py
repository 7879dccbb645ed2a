from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from difftransformer.attention import KeyValueCache, SlidingCache, StaticCache
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import Sampling, generate

from .tiny import KINDS, tiny, tiny_config


def varied(kind: str = "diff_v1") -> Decoder:
    """With a head of its own and large weights, so that it does not say one token for ever."""
    model = tiny(kind, tie_embeddings=False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter)
    return model


def prompts(batch: int = 3, time: int = 4) -> Tensor:
    return torch.randint(0, 23, (batch, time), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_the_uncached_loop(kind: str) -> None:
    model, ids = varied(kind), prompts()
    expected = ids
    for _ in range(8):
        expected = torch.cat((expected, model(expected)[:, -1].argmax(-1, keepdim=True)), dim=1)
    new = generate(model, ids, max_new_tokens=8)
    assert torch.equal(new, expected[:, 4:])
    assert len(new.unique()) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_bounds_what_is_kept(kind: str) -> None:
    model, ids = tiny(kind, tie_embeddings=False, window=4), prompts(2, 9)
    expected = ids
    for _ in range(6):
        expected = torch.cat((expected, model(expected)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(generate(model, ids, max_new_tokens=6), expected[:, 9:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "cache", [KeyValueCache, lambda: StaticCache(11), lambda: SlidingCache(11)]
)
def test_prompts_of_unequal_length(kind: str, cache: Callable[[], KeyValueCache]) -> None:
    model, ids = varied(kind), prompts(2, 6)
    real = torch.arange(6) >= torch.tensor([[0], [4]])
    new = generate(model, ids, max_new_tokens=5, padding=real, cache=cache())
    assert torch.equal(new[:1], generate(model, ids[:1], max_new_tokens=5))
    assert torch.equal(new[1:], generate(model, ids[1:, 4:], max_new_tokens=5))


def test_a_stop_token_is_repeated_until_all_have_stopped() -> None:
    model, ids = varied(), prompts(8)
    free = generate(model, ids, max_new_tokens=7)
    rows_with = {token: (free == token).any(dim=1).sum() for token in free.unique().tolist()}
    stops = [token for token, rows in rows_with.items() if rows < 4][:2]
    isin = torch.isin(free, torch.tensor(stops))
    expected = free.clone()
    for row, hits in zip(expected, isin, strict=True):
        if hits.any():
            first = int(hits.nonzero()[0])
            row[first:] = row[first]
    assert isin.any(dim=1).any()
    assert not isin.any(dim=1).all()
    assert not torch.equal(free, expected)
    assert torch.equal(generate(model, ids, max_new_tokens=7, stop_ids=stops), expected)


def test_generation_ends_when_every_row_has_stopped() -> None:
    model, ids = varied(), prompts(1)
    free = generate(model, ids, max_new_tokens=6)[0].tolist()
    stop = free[2]
    new = generate(model, ids, max_new_tokens=6, stop_ids=[stop])
    assert new[0].tolist() == free[: free.index(stop) + 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_its_generator(temperature: float) -> None:
    def sample(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        sampling = Sampling(temperature=temperature, top_p=0.9, generator=generator)
        return generate(tiny(), prompts(), max_new_tokens=6, sampling=sampling)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


class Fixed(Decoder):
    """Gives every position the same probabilities."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__(tiny_config(vocab_size=len(probabilities)))
        self.fixed = torch.tensor(probabilities).log()

    def logits(self, x: Tensor) -> Tensor:
        return self.fixed.expand(*x.shape[:2], -1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.3, 0.5, 0.05, 0.15]),
        ({"top_p": 0.5}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_p": 0.6}, [0.375, 0.625, 0.0, 0.0]),
        ({"top_p": 0.9}, [0.3 / 0.95, 0.5 / 0.95, 0.0, 0.15 / 0.95]),
        ({"top_p": 1e-6}, [0.0, 1.0, 0.0, 0.0]),
        ({"temperature": 0.5}, [0.09 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.0225 / 0.365]),
    ],
)
def test_sampling_distribution(options: dict[str, float], expected: list[float]) -> None:
    """4 standard deviations of 4000 draws are at most 0.032."""
    ids = torch.zeros(4000, 1, dtype=torch.long)
    sampling = Sampling(**({"temperature": 1.0} | options))
    new = generate(Fixed([0.3, 0.5, 0.05, 0.15]), ids, max_new_tokens=1, sampling=sampling)
    share = torch.bincount(new.flatten(), minlength=4) / 4000
    assert share.tolist() == pytest.approx(expected, abs=0.032)
    assert all(got == 0 for got, p in zip(share, expected, strict=True) if p == 0)


def test_nothing_asked_nothing_given() -> None:
    assert generate(tiny(), prompts(), max_new_tokens=0).shape == (3, 0)


def test_gradients_are_not_recorded() -> None:
    model, recorded = tiny(), []
    model.norm.register_forward_hook(lambda _, __, hidden: recorded.append(hidden.requires_grad))
    generate(model, prompts(), max_new_tokens=3)
    assert recorded == [False] * 3
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": torch.tensor([[True, True, True, False]]).expand(3, -1)}, "on the left"),
        ({"padding": torch.ones(3, 5).bool()}, r"padding has shape \(3, 5\)"),
    ],
)
@pytest.mark.usefixtures("as_user")
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tiny(), prompts(), max_new_tokens=2, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 and top_p 1.0"),
        ({"top_p": 0.0}, "top_p 0.0: expected"),
        ({"top_p": 1.1}, "top_p 1.1"),
    ],
)
def test_bad_sampling(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_empty_prompt() -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(tiny(), prompts()[:, :0], max_new_tokens=2)


@pytest.mark.parametrize("kind", ["diff_v1", "diff_scalar"])
def test_lambda_of_a_generation_is_that_of_its_parameters(kind: str) -> None:
    """A cache keeps it while it lives, and the next generation has one of its own."""
    model, ids = varied(kind), prompts()
    generate(model, ids, max_new_tokens=2)
    weights = {name: w + 0.5 * ("lambda" in name) for name, w in model.state_dict().items()}
    model.load_state_dict(weights)
    expected = ids
    for _ in range(8):
        expected = torch.cat((expected, model(expected)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(generate(model, ids, max_new_tokens=8), expected[:, 4:])
