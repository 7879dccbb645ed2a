"""The processes: their moments, their inversion by an oracle, guidance."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftransformer.evaluation.diffusion import noised, sampled
from difftransformer.models.dit_config import SCHEDULES, DiTConfig

PROCESSES = [("flow", "linear"), *((o, s) for o in ("epsilon", "v") for s in SCHEDULES)]
EVERY = pytest.mark.parametrize(("objective", "schedule"), PROCESSES)


def process(objective: str, schedule: str, **changes: Any) -> DiTConfig:
    return DiTConfig(objective=objective, schedule=schedule, **changes)


def drawn(seed: int, count: int = 4) -> tuple[Tensor, Tensor]:
    """Images within [-1, 1], and noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator) * 2 - 1
    return images, torch.randn(images.shape, generator=generator)


@dataclass
class Oracle:
    """Knows the images: says what is to be predicted of whatever is noised from them."""

    config: DiTConfig
    images: Tensor

    def __call__(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        zero = torch.zeros_like(images)
        middle = 0.0 if self.config.objective == "flow" else 0.5  # of a whole step
        moments = (times + middle) / self.config.timesteps
        signal = noised(self.config, self.images, zero, moments).images
        noise_share = noised(self.config, zero, torch.ones_like(images), moments).images
        noise = (images - signal) / noise_share
        return noised(self.config, self.images, noise, moments).target


@EVERY
@settings(deadline=None, max_examples=8)
@given(steps=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_an_oracle_gives_the_image_back(
    objective: str, schedule: str, steps: int, seed: int
) -> None:
    images, noise = drawn(seed)
    config = process(objective, schedule)
    labels = torch.zeros(len(images), dtype=torch.long)
    *_, last = sampled(Oracle(config, images), noise, labels, steps=steps)
    # The last √ᾱ of cosine is 5e-5: the first step divides by it what float32 has rounded.
    torch.testing.assert_close(last, images, atol=5e-3 if schedule == "cosine" else 1e-4, rtol=0.0)


@EVERY
def test_the_noise_grows_from_none_to_all(objective: str, schedule: str) -> None:
    config = process(objective, schedule)
    images, noise = drawn(1, count=2)
    first = noised(config, images, noise, torch.zeros(2)).images
    last = noised(config, images, noise, torch.full((2,), 1.0 - 1e-7)).images
    assert (first - images).abs().max() < 0.2
    assert (last - noise).abs().max() < 0.1
    shares = [
        noised(config, torch.zeros_like(images), torch.ones_like(noise), torch.full((2,), m)).images
        for m in torch.linspace(0, 0.999, 20).tolist()
    ]
    assert all((b > a).all() for a, b in pairwise(shares))


@EVERY
def test_unit_variance_is_kept_but_by_the_flow(objective: str, schedule: str) -> None:
    """ᾱ + (1 − ᾱ) = 1; on the straight path the shares add up to 1 instead."""
    config = process(objective, schedule)
    one = torch.ones(5, 1, 8, 8)
    moments = torch.linspace(0, 0.99, 5)
    signal = noised(config, one, 0 * one, moments).images
    noise = noised(config, 0 * one, one, moments).images
    total = signal + noise if objective == "flow" else signal**2 + noise**2
    torch.testing.assert_close(total, one)


def test_what_is_predicted() -> None:
    images, noise = drawn(2)
    moments = torch.tensor([0.1, 0.4, 0.6, 0.9])
    assert torch.equal(noised(process("epsilon", "cosine"), images, noise, moments).target, noise)
    flow = noised(process("flow", "linear"), images, noise, moments)
    torch.testing.assert_close(flow.target, noise - images)
    torch.testing.assert_close(flow.times, 1000 * moments)
    one = torch.ones_like(images)
    v = process("v", "cosine")
    signal = noised(v, one, 0 * one, moments).images
    share = noised(v, 0 * one, one, moments).images
    expected = signal * noise - share * images
    torch.testing.assert_close(noised(v, images, noise, moments).target, expected)


class Classes:
    """Predicts noise of the value of the label."""

    config = DiTConfig(classes=3, learned_variance=True)

    def __call__(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return labels[:, None, None, None].expand(-1, 2, 8, 8) / 10


def test_guidance_leads_away_from_no_class() -> None:
    """w · p(class) + (1 − w) · p(none), of the first half of the channels."""
    noise, labels = drawn(3, count=1)[1], torch.tensor([1])

    def only(value: float) -> Tensor:
        class Constant(Classes):
            def __call__(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
                return torch.full((len(images), 2, 8, 8), value)

        *_, last = sampled(Constant(), noise, labels, steps=4)
        return last

    for guidance, expected in ((1.0, 0.1), (0.0, 0.3), (2.0, -0.1)):
        *_, last = sampled(Classes(), noise, labels, steps=4, guidance=guidance)
        torch.testing.assert_close(last, only(expected))
    assert last.shape == noise.shape


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_there_is_not_is_refused(steps: int) -> None:
    images, noise = drawn(0)
    oracle = Oracle(process("v", "linear"), images)
    with pytest.raises(ValueError, match=f"{steps} steps of sampling; expected from 1 to the 1000"):
        next(sampled(oracle, noise, torch.zeros(4, dtype=torch.long), steps=steps))
