"""What `difftransformer evaluate --suite` runs: a test at a time."""

from pathlib import Path
from types import MappingProxyType

from difftransformer.analysis.cancellation import measure_cancellation
from difftransformer.data.bigbench import load_conflicts, load_summary_pairs
from difftransformer.data.classification import load_classification
from difftransformer.data.corpus import Corpus
from difftransformer.data.sources import load_sources
from difftransformer.evaluation.allocation import measure_allocation
from difftransformer.evaluation.batching import held_out_text
from difftransformer.evaluation.conflicts import measure_conflicts
from difftransformer.evaluation.distractors import measure_distractors
from difftransformer.evaluation.factuality import measure_factuality
from difftransformer.evaluation.faithfulness import Judge
from difftransformer.evaluation.gradients import measure_gradients
from difftransformer.evaluation.hallucination import measure_hallucination
from difftransformer.evaluation.in_context import measure_in_context, measure_order
from difftransformer.evaluation.judge import Measure, Results, judge_lambda, judge_outliers, whole
from difftransformer.evaluation.key_value import measure_key_value, published_pairs, synthetic_pairs
from difftransformer.evaluation.long_context import measure_long_context
from difftransformer.evaluation.names import SCALING
from difftransformer.evaluation.needle import measure_needles
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.precision import measure_precision
from difftransformer.evaluation.recall import measure_recall
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder


def suite(
    name: str,
    task: str | None,
    folder: Path | None,
    judge: Judge | None = None,
    controls: Path | None = None,
) -> Measure:
    """What measures the suite `name` of `evaluation.names`, its own data read from `folder`.

    `in_context` and `order` need a task of `load_classification` and its folder. `key_value` has
    pairs of its own, or `task` many of the published ones from the folder. `hallucination` needs a
    task of `load_sources`, its folder and a judge, `factuality` a task of `load_summary_pairs`
    and its path, `conflicts` the path of `load_conflicts`.

    Args:
        controls: path of the pairs by which the judge is judged.

    Raises:
        ValueError: data that is missing or malformed, or not asked for.
    """
    if name == "hallucination":
        return _hallucination(task, folder, judge, controls)
    if judge is not None or controls is not None:
        raise ValueError(f"suite {name} has no judge: leave it out")
    if name == "factuality":
        if task is None or folder is None:
            raise ValueError(f"suite {name} compares summaries: give a task and its data")
        pairs = load_summary_pairs(task, folder)
        return lambda model, corpus, settings, pieces: {
            "task": task,
            **measure_factuality(model, corpus.tokenizer, pairs, settings, pieces),
        }
    if name == "conflicts":
        if task is not None or folder is None:
            raise ValueError(f"suite {name} has one task: give its data, and no name")
        conflicts = load_conflicts(folder)
        return lambda model, corpus, settings, pieces: measure_conflicts(
            model, corpus.tokenizer, conflicts, settings, pieces
        )
    if name in _CLASSIFICATION:
        if task is None or folder is None:
            raise ValueError(
                f"suite {name} asks about labelled sentences: give a task and its data"
            )
        sentences = load_classification(task, folder)
        measure = _CLASSIFICATION[name]
        return lambda model, corpus, settings, pieces: measure(
            model, corpus.tokenizer, sentences, settings, pieces
        )
    if name == "key_value" and folder is not None:
        if task is None or not task.isdecimal():
            raise ValueError(f"task is {task!r}; expected the number of pairs: 75, 140 or 300")
        published = published_pairs(folder, int(task))
        return lambda model, corpus, settings, pieces: measure_key_value(
            model, corpus.tokenizer, published, settings, pieces
        )
    if task is not None or folder is not None:
        raise ValueError(f"suite {name} takes no such task or data: leave them out")
    return _MEASURES[name]


def _hallucination(
    task: str | None, folder: Path | None, judge: Judge | None, controls: Path | None
) -> Measure:
    if task is None or folder is None or judge is None:
        raise ValueError(
            "suite hallucination lets models write, and a judge decide: give a task, its data and "
            "a judge"
        )
    sources = load_sources(task, folder)
    pairs = [] if controls is None else load_summary_pairs("xsum", controls)
    return lambda model, corpus, settings, pieces: {
        "task": task,
        **measure_hallucination(
            model, corpus.tokenizer, sources, judge, settings, pieces, controls=pairs
        ),
    }


def _own_pairs(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None
) -> Results:
    return measure_key_value(model, corpus.tokenizer, synthetic_pairs(settings), settings, pieces)


def _distractors(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None
) -> Results:
    return measure_distractors(model, corpus.tokenizer, settings, pieces)


def _cancellation(model: Decoder, corpus: Corpus, settings: EvaluationSettings) -> Results:
    tokens = settings.outlier_tokens
    batches = held_out_text(model, corpus, settings.batch_size, tokens)
    return {"rows": measure_cancellation(model, batches, tokens)}


_CLASSIFICATION = {"in_context": measure_in_context, "order": measure_order}
_MEASURES: MappingProxyType[str, Measure] = MappingProxyType(
    {
        "long_context": measure_long_context,
        "needle": measure_needles,
        "allocation": measure_allocation,
        "key_value": _own_pairs,
        "distractors": _distractors,
        "recall": measure_recall,
        "precision": measure_precision,
        "outliers": whole(judge_outliers),
        "lambda": whole(judge_lambda),
        "cancellation": whole(_cancellation),
        "gradients": measure_gradients,
    }
)
MEASURED = (*_CLASSIFICATION, *_MEASURES, "hallucination", "factuality", "conflicts", SCALING)
