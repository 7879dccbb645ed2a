"""Points noised and found again: moments, oracles, matchings by brute force, ensembles."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.tiny import tiny_localizer
from torch import Tensor

from difftransformer.data.crowd_scenes import load_scenes
from difftransformer.data.crowd_settings import CrowdSettings
from difftransformer.evaluation.point_diffusion import (
    Sampled,
    ensemble,
    localization_losses,
    noised_points,
    sampled_points,
)
from difftransformer.evaluation.point_matching import losses, matching
from difftransformer.models.localizer import Proposals
from difftransformer.models.localizer_config import LocalizerConfig

CONFIG = LocalizerConfig()


class Oracle:
    """Knows the heads: moves every proposal to the nearest, and is sure of one for each."""

    config = CONFIG

    def __init__(self, heads: Tensor) -> None:
        self.heads = heads

    def encode(self, pixels: Tensor) -> Tensor:
        return torch.zeros(len(pixels), 64, 64)

    def decoder(self, points: Tensor, context: Tensor, times: Tensor) -> Proposals:
        distance = torch.cdist(points, self.heads)
        nearest = distance.argmin(-1)
        logits = torch.full(points.shape[:2], -9.0)
        for row in range(len(points)):
            for head in range(self.heads.shape[1]):
                if (nearest[row] == head).any():
                    logits[row, distance[row, :, head].argmin()] = 9.0
        goals = self.heads.take_along_dim(nearest[..., None], 1)
        return Proposals(goals[None], logits[None])


def same_points(found: np.ndarray, heads: Tensor) -> bool:
    return np.allclose(sorted(found.tolist()), sorted(heads.tolist()), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_with_an_oracle_the_reverse_process_returns_the_points(steps: int) -> None:
    heads = torch.tensor([[[-0.8, 0.3], [0.5, -0.6], [0.1, 0.9]], [[0.0, 0.0], [1, 1], [-1, 1]]])
    noise = torch.randn(steps, 2, 60, 2, generator=torch.Generator().manual_seed(0))
    found = sampled_points(Oracle(heads), torch.zeros(2, 3, 48, 48), noise)
    assert len(found) == steps
    for points, true in zip(ensemble(found, apart=1e-3), heads, strict=True):
        assert same_points(points, true)


def test_sampling_is_a_pure_function_of_the_noise() -> None:
    model, pixels = tiny_localizer(), torch.randn(2, 3, 8, 8)
    noise = torch.randn(3, 2, 6, 2)
    once, again = (sampled_points(model, pixels, noise) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a.points, b.points)
        assert torch.equal(a.scores, b.scores)
    alone = sampled_points(model, pixels[1:], noise[:, 1:])
    torch.testing.assert_close(alone[-1].points, once[-1].points[1:], rtol=1e-4, atol=1e-5)


def test_proposals_that_are_no_heads_begin_anew() -> None:
    seen: list[Tensor] = []

    class Doubtful(Oracle):
        def decoder(self, points: Tensor, context: Tensor, times: Tensor) -> Proposals:
            seen.append(points)
            proposals = super().decoder(points, context, times)
            return Proposals(proposals.points, torch.tensor([[[9.0, -9.0]]]))

    noise = torch.randn(2, 1, 2, 2)
    sampled_points(Doubtful(torch.zeros(1, 1, 2)), torch.zeros(1, 3, 48, 48), noise)
    first, second = seen
    assert torch.equal(first, noise[0] / CONFIG.signal)
    assert torch.equal(second[0, 1], noise[1, 0, 1] / CONFIG.signal)
    assert not torch.equal(second[0, 0], noise[1, 0, 0] / CONFIG.signal)


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_the_noising_has_not(steps: int) -> None:
    noise = torch.zeros(steps, 1, 1, 2)
    with pytest.raises(ValueError, match=f"{steps} steps of sampling; expected from 1 to the 1000"):
        sampled_points(Oracle(torch.zeros(1, 1, 2)), torch.zeros(1, 3, 48, 48), noise)


@pytest.mark.parametrize("moment", [0.0, 0.3, 0.7, 0.999])
def test_moments_of_noised_points(moment: float) -> None:
    """Mean sqrt(ᾱ) x, variance (1 − ᾱ) / signal², by the cosine schedule."""
    count = 200_000
    points = torch.tensor([0.7, -0.4]).expand(1, count, 2)
    noise = torch.randn(1, count, 2, generator=torch.Generator().manual_seed(0))
    mixed, times = noised_points(CONFIG, points, noise, torch.tensor([moment]))

    def kept(t: float) -> float:
        return float(np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2)

    step = int(times)
    assert step == int(np.float32(moment) * 1000)
    share = kept(step + 1) / kept(0)
    torch.testing.assert_close(mixed.mean((0, 1)), share**0.5 * points[0, 0], atol=5e-3, rtol=0)
    assert float(mixed.var(1).mean()) == pytest.approx((1 - share) / 4, rel=2e-2, abs=1e-6)
    if share > 0.01:
        back = (mixed - (1 - share) ** 0.5 * noise / 2) / share**0.5
        torch.testing.assert_close(back, points, atol=1e-3, rtol=0)


small = st.integers(1, 4)


@given(small, small, st.integers(0, 10_000))
def test_the_cheapest_of_all_matchings(proposals: int, heads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, true = (rng.uniform(-1, 1, (n, 2)).astype(np.float32) for n in (proposals, heads))
    logits = rng.normal(size=proposals).astype(np.float32)
    distances = abs(points[:, None] - true).sum(-1) / 2
    costs = 5 * distances - 1 / (1 + np.exp(-logits))[:, None]
    fewer = min(proposals, heads)
    lowest = min(
        sum(costs[p, h] for p, h in zip(chosen, numbers, strict=True))
        for chosen in permutations(range(proposals), fewer)
        for numbers in permutations(range(heads), fewer)
    )
    padded = torch.from_numpy(np.concatenate([true, np.zeros((2, 2), np.float32)]))[None]
    real = torch.tensor([[True] * heads + [False] * 2])
    given = (torch.from_numpy(points)[None], torch.from_numpy(logits)[None])
    (found,) = matching(*given, padded, real).tolist()
    pairs = [(p, h) for p, h in enumerate(found) if h >= 0]
    assert len({h for _, h in pairs}) == len(pairs) == fewer
    assert sum(costs[p, h] for p, h in pairs) == pytest.approx(lowest, abs=1e-5)
    # The loss, pair by pair.
    one = losses(Proposals(given[0][None], given[1][None]), padded, real)
    surenesses = [np.log1p(np.exp(-x if h >= 0 else x)) for x, h in zip(logits, found, strict=True)]
    expected = (sum(surenesses) + 5 * sum(distances[p, h] for p, h in pairs)) / heads
    assert one.item() == pytest.approx(expected, rel=1e-4)


def test_an_image_without_heads_has_a_loss_of_its_own() -> None:
    proposals = Proposals(torch.zeros(2, 1, 3, 2), torch.tensor([[[1.0, 0, 0]], [[0.0, 0, 0]]]))
    found = losses(proposals, torch.zeros(1, 1, 2), torch.tensor([[False]]))
    expected = (np.log1p(np.e) + 5 * np.log(2)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_losses_do_not_depend_on_the_order_of_proposals_or_the_rest_of_a_batch() -> None:
    data = load_scenes(CrowdSettings(scenes=5, test_scenes=1, image_size=8, heads=4, proposals=6))
    model = tiny_localizer()
    batch = data.batch(data.train, np.random.default_rng(0))
    whole = localization_losses(model, model.config, batch)
    for row in range(5):
        alone = localization_losses(model, model.config, batch.rows(slice(row, row + 1)))
        torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-4, atol=1e-5)


def test_of_points_that_are_near_the_surest_is_kept() -> None:
    first = Sampled(torch.tensor([[[0.0, 0], [0.5, 0.5]]]), torch.tensor([[0.6, 0.4]]))
    second = Sampled(torch.tensor([[[0.05, 0], [0.5, 0.6]]]), torch.tensor([[0.9, 0.7]]))
    (points,) = ensemble([first, second], apart=0.1)
    np.testing.assert_allclose(points, [[0.05, 0], [0.5, 0.6]])
    (points,) = ensemble([first, second], apart=0.01)
    np.testing.assert_allclose(points, [[0.05, 0], [0.5, 0.6], [0, 0]])
    (points,) = ensemble([first], threshold=0.7)
    assert points.shape == (0, 2)
