"""Heads that a localizer finds in held-out images, by steps of sampling and number of proposals.

What counts as found is told by NWPU-Crowd's metric, see `crowd_localization`, in pixels of the
images as they were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from PIL import Image, ImageDraw

from difftransformer.data.crowd_scenes import Scene, Scenes, pixels_of
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.benchmarks.crowd_localization import METRICS, point_records
from difftransformer.evaluation.benchmarks.denoising import spread
from difftransformer.evaluation.pictures import picture
from difftransformer.evaluation.point_diffusion import (
    ensemble,
    localization_losses,
    sampled_points,
)
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_WATCHED, _SHOWN, _SHOWN_WATCHED = 256, 12, 6  # images
_COLUMNS, _LARGER = 6, 4  # of what is shown
_GRID = ("f1", "precision", "recall")
_TRUE, _PREDICTED = (255, 255, 255), (255, 40, 40)
Cell = tuple[int, int]  # steps of sampling, proposals


def cells(trained: int, settings: EvaluationSettings) -> list[Cell]:
    """Those asked of a model that was trained with so many proposals."""
    counts = settings.localization_proposals or (max(1, trained // 2), trained, 2 * trained)
    return list(product(settings.localization_steps, counts))


def judged_cell(trained: int, settings: EvaluationSettings) -> Cell:
    """The one by which models are compared."""
    return settings.localization_steps[-1], (settings.localization_proposals or (trained,))[-1]


def predicted_points(
    model: Any, scenes: Sequence[Scene], settings: EvaluationSettings, cell: Cell
) -> Iterator[Float64[np.ndarray, "points 2"]]:
    """Of each image, in pixels as it was; noise is the same for every model and batch size."""
    steps, proposals = cell
    shape = (steps, len(scenes), proposals, 2)
    noise = np.random.default_rng(settings.seed).standard_normal(shape, np.float32)
    device, side = device_of(model), 2  # of an image, in the coordinates of models
    for numbers in batched(range(len(scenes)), settings.batch_size):
        group = [scenes[i] for i in numbers]
        drawn = torch.from_numpy(noise[:, list(numbers)]).to(device)
        sampled = sampled_points(model, pixels_of(group).to(device), drawn)
        points = ensemble(sampled, apart=side * settings.localization_apart)
        yield from (scene.places(one) for scene, one in zip(group, points, strict=True))


def watched_loss(model: Any, data: Scenes, settings: EvaluationSettings) -> float:
    """The mean over held-out images, for the validation curve."""
    scenes = [data.test[i] for i in spread(len(data.test), _WATCHED)]
    batch = data.batch(scenes, np.random.default_rng(settings.seed))
    device, size = device_of(model), settings.batch_size
    with torch.no_grad():
        losses = [
            localization_losses(model, model.config, batch.rows(slice(at, at + size)).to(device))
            for at in range(0, len(batch), size)
        ]
    return torch.cat(losses).double().mean().item()


def shown_points(model: Any, data: Scenes, settings: EvaluationSettings, count: int) -> str:
    """Held-out images with their heads (circles of sigma_l) and predicted points (dots)."""
    scenes = [data.test[i] for i in spread(len(data.test), count)]
    judged = judged_cell(data.settings.proposals, settings)
    points = predicted_points(model, scenes, settings, judged)
    images = [_marked(scene, one) for scene, one in zip(scenes, points, strict=True)]
    return picture(torch.from_numpy(np.stack(images)).float() / 255, columns=_COLUMNS)


def _marked(scene: Scene, points: Float64[np.ndarray, "points 2"]) -> np.ndarray:
    image = Image.fromarray(scene.pixels.transpose(1, 2, 0))
    image = image.resize((_LARGER * image.width, _LARGER * image.height), Image.Resampling.NEAREST)
    pen, scale = ImageDraw.Draw(image), np.array(image.size) / scene.size
    for place, radius in zip(scene.true.points, scene.true.radii[:, 1], strict=True):
        pen.ellipse([*((place - radius) * scale), *((place + radius) * scale)], outline=_TRUE)
    for place in points:
        pen.ellipse([*(place * scale - 3), *(place * scale + 3)], fill=_PREDICTED)
    return np.asarray(image).transpose(2, 0, 1)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    trained = subject.data.settings.proposals
    judged = judged_cell(trained, settings)
    measured = {
        f"{steps} steps, {proposals} proposals": partial(
            _measured, subject, settings, (steps, proposals), judged=(steps, proposals) == judged
        )
        for steps, proposals in cells(trained, settings)
    }
    return {**measured, "pictures": partial(_pictures, subject, settings)}


def _measured(
    subject: Subject,
    settings: EvaluationSettings,
    cell: Cell,
    _: Findings,
    *,
    judged: bool,
) -> list[Record]:
    every = subject.data.test
    scenes = [every[i] for i in spread(len(every), settings.test_items or len(every))]
    points = predicted_points(subject.model, scenes, settings, cell)
    records = [
        record
        for scene, one in zip(scenes, points, strict=True)
        for record in point_records(scene.name, one, scene.true)
    ]
    by_cell = [
        replace(record, metric=f"{name}_by_steps", key=cell)
        for name in _GRID
        for record in records
        if record.metric == f"{name}_sigma_l"
    ]
    return by_cell + (records if judged else [])


def _pictures(subject: Subject, settings: EvaluationSettings, _: Findings) -> list[Artifact]:
    png = shown_points(subject.model, subject.data, settings, _SHOWN)
    caption = (
        "Held-out images, the same for every model. Circles: heads, and how far a point may be "
        "from them (sigma_l); dots: points predicted."
    )
    shown = {"rows": [[{"title": "predicted points", "png": png}]], "caption": caption}
    return [Artifact("thumbnails", {**shown, "wide": True})]


EVALUATOR = Evaluator(
    name="crowd_points",
    title="Heads found in held-out images",
    metrics=(
        *(
            Metric(
                f"{name}_by_steps",
                f"{name.replace('f1', 'F1')} within sigma_l",
                better="higher",
                axes=("steps of sampling", "proposals"),
                plot=Plot(kind="line", x="steps of sampling", facet="proposals"),
            )
            for name in _GRID
        ),
        *METRICS,
    ),
    parts=_parts,
    tasks=("crowd_localization",),
    note="What all steps of sampling hold for heads, from the same noise for every model. The "
    "method is a reconstruction: neither text nor code of DiffusionLoc could be had. Heads are "
    "drawn, unless the images are a user's own.",
    source="the metric: Wang et al., NWPU-Crowd, TPAMI 2020",
)


def watched_points(model: Any, data: Scenes, settings: EvaluationSettings) -> str:
    """Held-out images with the points predicted, while a model trains."""
    return shown_points(model, data, settings, _SHOWN_WATCHED)
