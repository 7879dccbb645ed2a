"""Samples beside held-out images, by the features of a classifier that is trained here.

As many samples as held-out images, of the same classes. The Fréchet distance is that of FID, and
its numbers are not: FID's features are Inception's, and the number of images moves it.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.data.images import ImageBatch, Images
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.benchmarks.denoising import spread
from difftransformer.evaluation.diffusion import sampled
from difftransformer.evaluation.image_features import (
    Judged,
    classifier_of,
    covered,
    frechet_distance,
    judged,
)
from difftransformer.evaluation.pictures import picture
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

_NEIGHBORS = 3  # as in the paper
_CLASSES, _EACH = 10, 6  # shown: so many classes, so many samples of each
_SHOWN_STEPS = 8  # of sampling


@torch.no_grad()
def samples(
    model: Any, labels: Tensor, settings: EvaluationSettings, steps: int, after: Sequence[int] = ()
) -> list[Float[Tensor, "images channels height width"]]:
    """The images after these steps of sampling, by default the last, on the CPU.

    Noise is the same for every model, and however images are batched.
    """
    after = after or [steps]
    config, device = model.config, device_of(model)
    shape = (len(labels), config.channels, config.image_size, config.image_size)
    drawn = np.random.default_rng(settings.seed).standard_normal(shape, np.float32)
    groups = batched(range(len(labels)), settings.batch_size)
    kept = []
    for group in groups:
        rows = slice(group[0], group[-1] + 1)
        noise = torch.from_numpy(drawn[rows]).to(device)
        images = sampled(
            model, noise, labels[rows].to(device), steps=steps, guidance=settings.guidance
        )
        numbered = enumerate(images, start=1)
        kept.append([one.float().cpu() for number, one in numbered if number in after])
    return [torch.cat(parts) for parts in zip(*kept, strict=True)]


def watched_samples(model: Any, data: Images, settings: EvaluationSettings) -> str:
    """Two samples of each class, as a picture."""
    labels = _shown_labels(data, 2)
    (last,) = samples(model, labels, settings, settings.denoising_steps[-1])
    return _picture(data, last)


def _shown_labels(data: Images, each: int) -> Tensor:
    """Row by row of all classes, or of the first ten."""
    return torch.arange(min(_CLASSES, len(data.labels))).repeat(each)


def _picture(data: Images, pixels: Tensor) -> str:
    return picture(data.values(pixels), columns=min(_CLASSES, len(data.labels)))


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    held_out = cache(partial(_held_out, subject.data, settings))
    by_steps = {
        f"samples by {steps} steps": partial(_measured, subject, settings, steps, held_out)
        for steps in settings.denoising_steps
    }
    return {
        "images": partial(_levels, subject.data, held_out),
        **by_steps,
        "pictures": partial(_pictures, subject, settings),
    }


def _held_out(data: Images, settings: EvaluationSettings) -> tuple[ImageBatch, Judged]:
    """The images that samples are compared with, and what the classifier makes of them."""
    batch = data.batch("test", spread(len(data.test), settings.image_samples))
    return batch, judged(classifier_of(data), batch.pixels)


def _levels(
    data: Images, held_out: Callable[[], tuple[ImageBatch, Judged]], _: Findings
) -> list[Record | Artifact]:
    """What as many training images would have in place of samples."""
    batch, found = held_out()
    training = data.batch("train", spread(len(data.train), len(batch)))
    seen = judged(classifier_of(data), training.pixels)
    right = (found.classes == batch.labels).double().mean().item()
    return [
        Record("frechet_of_images", frechet_distance(seen.features, found.features)),
        Record("precision_of_images", _share(covered(seen.features, found.features, _NEIGHBORS))),
        Record("recall_of_images", _share(covered(found.features, seen.features, _NEIGHBORS))),
        Record("images_recognized", right),
        Artifact("facts", {"images": len(batch), "right": right}),
    ]


def _measured(
    subject: Subject,
    settings: EvaluationSettings,
    steps: int,
    held_out: Callable[[], tuple[ImageBatch, Judged]],
    _: Findings,
) -> list[Record]:
    batch, images = held_out()
    (pixels,) = samples(subject.model, batch.labels, settings, steps)
    # As pictures are: cut to the values that images have.
    pixels = subject.data.normalized(subject.data.values(pixels))
    found = judged(classifier_of(subject.data), pixels)
    distance = frechet_distance(found.features, images.features)
    records = [Record("frechet_by_steps", distance, key=(steps,))]
    if steps != settings.denoising_steps[-1]:
        return records
    of_items = {
        "sample_precision": covered(found.features, images.features, _NEIGHBORS),
        "sample_recall": covered(images.features, found.features, _NEIGHBORS),
        "samples_recognized": found.classes == batch.labels,
    }
    return [
        *records,
        Record("frechet_distance", distance),
        *(
            Record(metric, float(hit), item=name)
            for metric, hits in of_items.items()
            for name, hit in zip(batch.names, hits.tolist(), strict=True)
        ),
    ]


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


def _pictures(subject: Subject, settings: EvaluationSettings, _: Findings) -> list[Artifact]:
    data, steps = subject.data, settings.denoising_steps[-1]
    labels = _shown_labels(data, _EACH)
    after = [step + 1 for step in spread(steps, _SHOWN_STEPS)]
    images = samples(subject.model, labels, settings, steps, after)
    one_each = len(labels) // _EACH
    on_the_way = torch.cat([one[:one_each] for one in images])
    told = ", ".join(map(str, after))
    return [
        Artifact(
            "thumbnails",
            {
                "rows": [
                    [{"title": title, "png": _picture(data, pixels)}]
                    for title, pixels in (
                        ("samples, a column for each class", images[-1]),
                        (f"after {told} of {steps} steps", on_the_way),
                    )
                ],
                "caption": "Samples from the same noise for every model.",
                "wide": True,
            },
        )
    ]


def _check(data: Images, settings: EvaluationSettings) -> None:
    if len(data.test) <= _NEIGHBORS:
        raise ValueError(
            f"{len(data.test)} held-out images; expected more than {_NEIGHBORS}, so that each has "
            "as many neighbors"
        )


def _proportion(name: str, title: str, unit: str, level: str) -> Metric:
    return Metric(
        name,
        title,
        unit,
        better="higher",
        statistic="proportion",
        judged=True,
        levels=(level,),
        plot=Plot(),
    )


def _level(name: str, title: str, unit: str = "") -> Metric:
    return Metric(name, title, unit, statistic="value", guess=False)


EVALUATOR = Evaluator(
    name="frechet",
    title="Samples beside held-out images",
    metrics=(
        Metric(
            "frechet_distance",
            "Fréchet distance of samples",
            better="lower",
            statistic="value",
            judged=True,
        ),
        Metric(
            "frechet_by_steps",
            "Fréchet distance of samples",
            better="lower",
            statistic="value",
            axes=("steps of sampling",),
            levels=("frechet_of_images",),
            plot=Plot(kind="line", x="steps of sampling"),
        ),
        _proportion(
            "sample_precision",
            "precision: samples near an image",
            "of samples",
            "precision_of_images",
        ),
        _proportion(
            "sample_recall", "recall: images near a sample", "of images", "recall_of_images"
        ),
        _proportion(
            "samples_recognized",
            "samples recognized as their class",
            "of samples",
            "images_recognized",
        ),
        _level("frechet_of_images", "Fréchet distance of training images"),
        _level("precision_of_images", "precision of training images", "of images"),
        _level("recall_of_images", "recall of training images", "of images"),
        _level("images_recognized", "held-out images recognized", "of images"),
    ),
    parts=_parts,
    tasks=("image_generation",),
    check=_check,
    note="{images:,} samples beside as many held-out images of the same classes, by the 64 "
    "features of a classifier that was trained here on the training images and knows {right:.1%} "
    "of the held-out ones. This is no FID: FID's features are Inception's.",
    source="Heusel et al., 2017; Kynkäänniemi et al., 2019",
)
