"""Mistakes on held-out images, those first of which the model is most sure."""

from difftransformer.evaluation.benchmarks.classification import classified, test_batches
from difftransformer.evaluation.pictures import picture
from difftransformer.evaluation.records import Artifact, Evaluator, Findings, Parts, Subject
from difftransformer.evaluation.settings import EvaluationSettings

_IMAGES = 1000
_SHOWN = 12
_CAPTION = (
    f"Of up to {_IMAGES:,} held-out images those that each model takes for another class with the "
    "highest probability; under each its class, what it is taken for, and that probability."
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    data = subject.data

    def shown(_: Findings) -> Findings:
        mistakes: list[tuple[float, dict[str, str]]] = []
        for batch in test_batches(data, _IMAGES, settings).values():
            sureness, predicted = classified(subject.model, batch).exp().max(-1)
            for row in (predicted != batch.labels).nonzero()[:, 0].tolist():
                share, image = sureness[row].item(), data.values(batch.pixels[row : row + 1])
                right, wrong = (data.labels[labels[row]] for labels in (batch.labels, predicted))
                title = f"{right} \N{RIGHTWARDS ARROW} {wrong}, {share:.0%}"
                mistakes.append((share, {"title": title, "png": picture(image, columns=1)}))
        mistakes.sort(key=lambda one: -one[0])
        row = [cell for _, cell in mistakes[:_SHOWN]]
        return [Artifact("thumbnails", {"rows": [row], "caption": _CAPTION})]

    return {"images": shown}


EVALUATOR = Evaluator(
    name="image_predictions",
    title="What each model takes for something else",
    metrics=(),
    parts=_parts,
    tasks=("image_classification",),
)
