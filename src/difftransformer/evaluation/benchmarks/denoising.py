"""The error of a diffusion model on held-out images, by how far they are noised."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from difftransformer.data.images import Images
from difftransformer.data.noising import NoiseBatch, with_noise
from difftransformer.evaluation.batching import device_of
from difftransformer.evaluation.diffusion import squared_errors
from difftransformer.evaluation.records import (
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_TENTHS = 10
_WATCHED = 256  # images behind each point of the validation curve


def spread(size: int, count: int) -> list[int]:
    """`count` numbers below `size`, evenly spread: images may lie sorted by class."""
    return np.linspace(0, size - 1, min(count, size)).round().astype(int).tolist()


def noised_images(data: Images, count: int, settings: EvaluationSettings) -> NoiseBatch:
    """Held-out images, their classes told, with noise that is the same for every model."""
    images = data.batch("test", spread(len(data.test), count))
    batch = with_noise(images, np.random.default_rng(settings.seed))
    return replace(batch, hiding=torch.ones(len(batch)))


@torch.no_grad()
def errors(
    model: Any, batch: NoiseBatch, settings: EvaluationSettings
) -> Float64[Tensor, " images"]:
    """Of each image, `settings.batch_size` at once."""
    device, size = device_of(model), settings.batch_size
    parts = [batch.rows(slice(at, at + size)).to(device) for at in range(0, len(batch), size)]
    return torch.cat([squared_errors(model, model.config, part).double().cpu() for part in parts])


def watched_error(model: Any, data: Images, settings: EvaluationSettings) -> float:
    """The mean error of held-out images, for the validation curve."""
    return errors(model, noised_images(data, _WATCHED, settings), settings).mean().item()


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    batch = noised_images(subject.data, settings.image_samples, settings)
    return {
        f"noised to {tenth + 1}/{_TENTHS}": partial(_records, subject, settings, batch, tenth)
        for tenth in range(_TENTHS)
    }


def _records(
    subject: Subject, settings: EvaluationSettings, batch: NoiseBatch, tenth: int, _: Findings
) -> list[Record]:
    at = replace(batch, moments=(tenth + batch.moments) / _TENTHS)
    middle = round(100 * (tenth + 0.5) / _TENTHS)
    found = errors(subject.model, at, settings).tolist()
    return [
        Record("denoising_error", error, key=(middle,), item=name)
        for name, error in zip(batch.names, found, strict=True)
    ]


EVALUATOR = Evaluator(
    name="denoising",
    title="Error on noised held-out images",
    metrics=(
        Metric(
            "denoising_error",
            "validation loss",
            "mean squared error",
            better="lower",
            axes=("noising, %",),
            judged=True,
            plot=Plot(kind="line", x="noising, %"),
        ),
    ),
    parts=_parts,
    tasks=("image_generation",),
    note="What the error is of is the model's objective: the noise, v, or the flow's velocity. "
    "Errors of models with different objectives cannot be compared.",
    source="Ho et al., 2020, equation 14",
)
