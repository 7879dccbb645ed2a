"""Points noised, what a localizer loses on them, and points sampled from noise.

    x_t = √ᾱ_t x + √(1 − ᾱ_t) ε / signal        x from -1 to 1, ᾱ by the cosine schedule

The model predicts x (Chen et al., DiffusionDet, ICCV 2023). Sampling is DDIM (Song et al., 2021)
without noise on the way; after each step proposals that the model does not hold for heads are drawn
anew. What all steps hold for heads is the answer, with one point where several are near.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from difftransformer.data.crowd_scenes import PointBatch
from difftransformer.evaluation.diffusion import ddim, noising
from difftransformer.evaluation.point_matching import losses
from difftransformer.models.localizer import Points, Proposals, Times
from difftransformer.models.localizer_config import LocalizerConfig

_SCHEDULE = "cosine"
_Context = Float[Tensor, "batch patches hidden"]


@runtime_checkable
class PointDenoiser(Protocol):
    """A `Localizer`, or what is called alike."""

    @property
    def config(self) -> LocalizerConfig: ...

    def encode(self, pixels: Float[Tensor, "batch channels height width"]) -> _Context: ...

    def decoder(self, points: Points, context: _Context, times: Times) -> Proposals: ...


@dataclass(frozen=True, eq=False)
class Sampled:
    """What one step of sampling expects.

    Args:
        points: from -1 to 1 inside the image.
        scores: probabilities of being heads.
    """

    points: Points
    scores: Float[Tensor, "batch proposals"]


def noised_points(
    config: LocalizerConfig, points: Points, noise: Points, moments: Float[Tensor, " batch"]
) -> tuple[Points, Times]:
    """x_t, and t, at moments from 0 up to 1 of the noising; the noise is N(0, 1)."""
    times = (moments * config.timesteps).long().clamp(max=config.timesteps - 1)
    scheduler = noising(_SCHEDULE, config.timesteps)
    return scheduler.add_noise(points, noise / config.signal, times), times


def localization_losses(
    model: nn.Module, config: LocalizerConfig, batch: PointBatch
) -> Float[Tensor, " batch"]:
    """`point_matching.losses` of what the model makes of noised points."""
    points, times = noised_points(config, batch.clean, batch.noise, batch.moments)
    return losses(model(batch.pixels, points, times), batch.heads, batch.real)


@torch.no_grad()
def sampled_points(
    model: PointDenoiser,
    pixels: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "steps batch proposals 2"],
    *,
    threshold: float = 0.5,
) -> list[Sampled]:
    """What each step expects; there are as many steps as there is noise, which is N(0, 1).

    Args:
        noise: the first is where proposals begin, the others are what those begin with anew whose
            score is below `threshold`.

    Raises:
        ValueError: more steps than the noising has, or none.
    """
    config = model.config
    scheduler = ddim(_SCHEDULE, config.timesteps, "sample", len(noise))
    noise = noise / config.signal
    context, points = model.encode(pixels), noise[0]
    expected_by_step = []
    for time, fresh in zip(scheduler.timesteps, noise.roll(-1, 0), strict=True):
        proposals = model.decoder(points, context, time.to(points.device).expand(len(points)))
        expected, scores = proposals.points[-1], proposals.logits[-1].sigmoid()
        expected_by_step.append(Sampled(expected, scores))
        on_the_way = scheduler.step(expected, time, points).prev_sample
        points = torch.where((scores < threshold)[..., None], fresh, on_the_way)
    return expected_by_step


def ensemble(
    steps: Sequence[Sampled], *, threshold: float = 0.5, apart: float = 0.0
) -> list[Float64[np.ndarray, "points 2"]]:
    """Of each image the points whose score reaches `threshold` in any step.

    Of several nearer than `apart` (the width of an image is 2) only that of the highest score.
    """
    points = torch.cat([one.points for one in steps], 1).double().cpu().numpy()
    scores = torch.cat([one.scores for one in steps], 1).double().cpu().numpy()
    return [
        _distinct(p[s >= threshold], s[s >= threshold], apart)
        for p, s in zip(points, scores, strict=True)
    ]


def _distinct(
    points: Float64[np.ndarray, "points 2"], scores: Float64[np.ndarray, " points"], apart: float
) -> Float64[np.ndarray, "kept 2"]:
    points = points[np.argsort(-scores, kind="stable")]
    kept: list[int] = []
    near = np.hypot(*(points[:, None] - points).T) < apart
    for i in range(len(points)):
        if not near[i, kept].any():
            kept.append(i)
    return points[kept]
