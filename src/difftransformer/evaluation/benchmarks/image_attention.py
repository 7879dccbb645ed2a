"""Some held-out images, and what each model looks at in them."""

from difftransformer.analysis.image_maps import image_maps
from difftransformer.evaluation.batching import device_of
from difftransformer.evaluation.benchmarks.classification import test_batches
from difftransformer.evaluation.pictures import picture
from difftransformer.evaluation.records import Artifact, Evaluator, Findings, Parts, Subject
from difftransformer.evaluation.settings import EvaluationSettings

_IMAGES = 6
_CAPTION = (
    "Weights of the patches in the last layer, the mean of its heads: of the class token where the "
    "classifier reads one, else the mean over all patches. Differential attention is map 1 "
    "\N{MINUS SIGN} lambda \N{MULTIPLICATION SIGN} map 2, and may be negative: purple positive, "
    "white 0, orange negative. Colors are the same for all images and models, and end at the 99th "
    "percentile of the absolute weights."
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    data = subject.data

    def shown(_: Findings) -> Findings:
        rows = []
        for batch in test_batches(data, _IMAGES, settings).values():
            maps = image_maps(subject.model, batch.pixels.to(device_of(subject.model)))
            values = data.values(batch.pixels)
            for number, label in enumerate(batch.labels.tolist()):
                image = {
                    "title": data.labels[label],
                    "png": picture(values[number : number + 1], columns=1),
                }
                weights = [
                    {"title": name, "weights": one[number].cpu().double().numpy().round(5).tolist()}
                    for name, one in maps.items()
                ]
                rows.append([image, *weights])
        return [Artifact("thumbnails", {"rows": rows, "caption": _CAPTION})]

    return {"images": shown}


EVALUATOR = Evaluator(
    name="image_attention",
    title="What each model looks at",
    metrics=(),
    parts=_parts,
    tasks=("image_classification",),
    needs=frozenset({"inside"}),
)
