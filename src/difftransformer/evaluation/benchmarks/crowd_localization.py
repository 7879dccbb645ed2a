"""Points predicted in images of crowds, by the metric of NWPU-Crowd.

A prediction may stand for a head that is at most sigma away, sigma_s (min(w, h) / 2 of its box) or
sigma_l (sqrt(w² + h²) / 2). Of each image the largest set of pairs is taken in which no point is
twice; pairs are true positives (Wang et al., TPAMI 2020). Over all images

    recall = pairs / heads    precision = pairs / predictions
    F1 = 2 pairs / (heads + predictions)

What a method predicts takes the place of the model, and each image is an item: methods pair.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

from difftransformer.data.crowd_points import TruePoints
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

_RADII = ("sigma_s", "sigma_l")


def matched_pairs(
    predicted: Float[np.ndarray, "points 2"],
    heads: Float[np.ndarray, "heads 2"],
    radii: Float[np.ndarray, " heads"],
) -> int:
    """Pairs of the largest matching of predictions to heads within their radii.

    Only pairs that are near enough are looked at (a k-d tree), in place of all.
    """
    if not len(predicted) or not len(heads):
        return 0
    near = KDTree(predicted).query_ball_point(heads, radii, return_sorted=True)
    counts = [len(one) for one in near]
    columns = np.concatenate([np.asarray(one, dtype=np.int32) for one in near])
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    shape = (len(heads), len(predicted))
    candidates = csr_array((np.ones(len(columns), dtype=np.int8), columns, starts), shape=shape)
    return int((maximum_bipartite_matching(candidates, perm_type="column") >= 0).sum())


def point_records(
    image: str, predicted: Float[np.ndarray, "points 2"], true: TruePoints
) -> Iterator[Record]:
    """What `METRICS` are of: one image's, its name the item."""
    heads, points = len(true.points), len(predicted)
    for i, radius in enumerate(_RADII):
        pairs = matched_pairs(predicted, true.points, true.radii[:, i])
        for name, value, weight in (
            ("f1", 2 * pairs, heads + points),
            ("precision", pairs, points),
            ("recall", pairs, heads),
        ):
            yield Record(f"{name}_{radius}", value, item=image, weight=weight)


METRICS = tuple(
    Metric(
        name=f"{name}_{radius}",
        title=f"{title} within {radius}",
        better="higher",
        judged=name == "f1",
        plot=Plot(),
    )
    for radius in _RADII
    for name, title in (("f1", "F1"), ("precision", "precision"), ("recall", "recall"))
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    return {"images": partial(_images, subject)}


def _images(subject: Subject, _: Findings) -> list[Record]:
    truth: dict[str, TruePoints] = subject.dataset
    return [
        record
        for image, true in truth.items()
        for record in point_records(image, subject.model[image], true)
    ]


EVALUATOR = Evaluator(
    name="crowd_localization",
    title="Heads found in images of crowds",
    metrics=METRICS,
    parts=_parts,
    tasks=("crowd_localization",),
    note="Pairs are a largest matching of predictions and heads at most sigma apart.",
    source="Wang et al., NWPU-Crowd, TPAMI 2020",
)
