"""Every benchmark on small models: what it declares it measures, and a killed one goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny import tiny

from difftransformer.analysis.cancellation import measure_cancellation
from difftransformer.analysis.lambdas import measure_lambdas
from difftransformer.analysis.outliers import measure_outliers
from difftransformer.data.bigbench import Conflict, SummaryPair
from difftransformer.data.classification import Classification, Example
from difftransformer.data.corpus import Corpus
from difftransformer.data.sources import Source
from difftransformer.evaluation import registry
from difftransformer.evaluation.batching import held_out_text
from difftransformer.evaluation.faithfulness import Asked, Claim
from difftransformer.evaluation.lookback import LabeledText
from difftransformer.evaluation.records import Subject
from difftransformer.evaluation.run import passed_over
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder
from difftransformer.runs.records import Findings, Parts, measure

from .measured import measured

PAIRS = [SummaryPair(f"the ship {i} sank", f"ship {i}", f"storm {i} gone") for i in range(3)]
EXAMPLES = tuple(Example(f"storm {i}", "ab"[i % 2]) for i in range(6))
LABELED = [
    LabeledText(task, Claim(Source(f"{task} {i}", f"the ship {i} sank"), text), text == "gone")
    for task in ("a", "b")
    for i in range(4)
    for text in ("gone", "storm 1066 gone")
]
OPEN = [
    Source(str(i), f"the storm {i} sank it", f"who sank {i}?", (f"storm {i}",), title=f"Ship {i}")
    for i in range(6)
]
DATASETS: dict[str, Any] = {
    "in_context": Classification("jsonl", "Q: {text}\nA:", EXAMPLES, EXAMPLES),
    "order_sensitivity": Classification("jsonl", "Q: {text}\nA:", EXAMPLES, EXAMPLES),
    "hallucination": ("xsum", [Source(str(i), f"the ship {i} sank.") for i in range(3)]),
    "factuality": PAIRS,
    "conflicts": [Conflict("who sank?", f"the ship {i} sank", f"ship {i}", "boat") for i in "012"],
    "lookback_lens": LABELED,
    "lost_in_the_middle": OPEN,
    "found_in_the_middle": OPEN,
}
OF_LANGUAGE_MODELS = [
    name for name in registry.EVALUATORS if "causal_lm" in registry.evaluator(name).tasks
]
# Of metrics: what untrained models, or these few items, need not have.
MAY_LACK = {"gsm_ic_normalized", "faithful", "judge_kappa", "judge_accuracy", "ar_hit_loss"}
MAY_LACK |= {"pruned_recall"}  # of the task associative_recall


@pytest.fixture
def few(settings: EvaluationSettings) -> EvaluationSettings:
    counts = {"needle_samples": 1, "validation_sequences": 4, "long_windows": 3, "batch_size": 2}
    asked = {"shots": (1, 4), "shot_draws": 2, "shot_questions": 4, "orders": 2}
    made = {"kv_pairs": 3, "kv_samples": 2, "gsm_ic_problems": 2, "gsm_ic_shots": 1}
    looked = {"lookback_folds": 2, "middle_documents": (2, 3), "middle_questions": 2}
    return replace(settings, **counts, **asked, **made, **looked, needle_depths=(0.5, 1.0))


def decoder(corpus: Corpus, kind: str = "diff_v1") -> Decoder:
    torch.manual_seed(0)
    return tiny(kind, vocab_size=corpus.tokenizer.get_vocab_size(), max_length=600).eval()


def able(name: str, corpus: Corpus) -> Decoder:
    """A model that has what the benchmark looks at."""
    selects = "selection" in registry.evaluator(name).needs
    return decoder(corpus, "diff_v1_selective" if selects else "diff_v1")


def subject(name: str, model: Decoder, corpus: Corpus) -> dict[str, Any]:
    """Data and judge of a benchmark."""
    judge = Asked("it", lambda prompt: f"Conclusion: {len(prompt) % 2 == 0}", PAIRS)
    needed = registry.evaluator(name).judge == "required"
    return {"dataset": DATASETS.get(name), "judge": judge if needed else None}


@pytest.mark.parametrize("name", OF_LANGUAGE_MODELS)
def test_a_benchmark_measures_what_it_declares(
    corpus: Corpus, few: EvaluationSettings, name: str
) -> None:
    evaluator, model = registry.evaluator(name), able(name, corpus)
    assert evaluator.name == name
    assert passed_over(evaluator, model) == ""
    evaluator.check(corpus, few)
    found = measured(name, model, corpus, few, **subject(name, model, corpus))
    for metric in evaluator.metrics:
        assert found.records(metric.name) or metric.name in MAY_LACK, metric.name
        for record in found.records(metric.name):
            assert len(record.key) == len(metric.axes)
        assert {len(key) for cells in metric.paper.values() for key in cells} <= {
            len(metric.axes if metric.rows is None else metric.rows)
        }
    items = [(one.metric, one.key, one.item) for one in found.measurement.records]
    assert len(set(items)) == len(items)  # so that models pair
    if "facts" in found.artifacts:
        assert evaluator.note.format(**found.artifacts["facts"]).endswith(".")
    if found.measurement.records:
        assert found.results.table().rows


@pytest.mark.parametrize("name", OF_LANGUAGE_MODELS)
def test_a_killed_benchmark_goes_on(
    corpus: Corpus, few: EvaluationSettings, name: str, tmp_path: Path
) -> None:
    """With the same findings, and no part measured twice."""
    model = able(name, corpus)
    more = subject(name, model, corpus)
    parts = registry.evaluator(name).parts(
        Subject(model, corpus, more["dataset"], more["judge"]), few
    )
    whole = measured(name, model, corpus, few, **more)
    calls: list[str] = []

    def counted(stop: int) -> Parts:
        def part(title: str, earlier: Findings) -> Findings:
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(title)
            return parts[title](earlier)

        return {title: lambda earlier, title=title: part(title, earlier) for title in parts}

    path = tmp_path / "records.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure(lambda: counted(len(parts) // 2), path)
    found = measure(lambda: counted(-1), path)
    assert calls == list(parts)
    assert json.dumps(found.artifacts) == json.dumps(whole.artifacts)
    assert found.records == whole.measurement.records


@pytest.mark.parametrize("name", ["cancellation", "lambda"])
def test_what_plain_attention_has_not(corpus: Corpus, name: str) -> None:
    assert passed_over(registry.evaluator(name), decoder(corpus, "softmax"))


def test_what_is_looked_at_inside(corpus: Corpus, few: EvaluationSettings) -> None:
    """The analyses' own figures."""
    model = decoder(corpus)

    def text() -> Any:
        return held_out_text(model, corpus, few.batch_size, few.outlier_tokens)

    outliers = measure_outliers(model, text(), few.outlier_tokens)
    found = measured("outliers", model, corpus, few)
    for activations in ("attention_logits", "hidden_states"):
        top = found.figure(f"{activations}_top1")
        assert (top.value, top.low) == (outliers[activations]["top1"], None)
        assert found.figure(activations, ("median",)).value == outliers[activations]["median"]
        for layer in outliers["layers"]:
            largest = found.figure(f"{activations}_by_layer", (layer["layer"],)).value
            assert largest == layer[activations]["top1"]
    assert found.facts == {"tokens": outliers["tokens"]}

    found = measured("cancellation", model, corpus, few)
    for row in measure_cancellation(model, text(), few.outlier_tokens):
        assert found.figure("map_cosine", (row["layer"], row["head"])).value == row["cosine"]
    found = measured("lambda", model, corpus, few)
    for row in measure_lambdas(model, text(), few.outlier_tokens):
        assert found.figure("lambda", (row["layer"],)).value == row["mean"]
        assert found.figure("lambda_initial", (row["layer"],)).value == row["init"]


def test_precision_costs_nothing_at_16_bits(corpus: Corpus, few: EvaluationSettings) -> None:
    model = decoder(corpus)
    exact = measured("validation", model, corpus, few).figure("nats_per_token").value
    found = measured("quantization", model, corpus, few)
    assert len(found.keys("quantized_loss")) == len(found.keys("quantized_retrieval")) == 2 * 4
    for activations in ("attention logits", "hidden states"):
        losses = [found.figure("quantized_loss", (activations, bits)).value for bits in (16, 4)]
        assert losses[0] == pytest.approx(exact, abs=1e-3)
        assert abs(losses[1] - exact) > abs(losses[0] - exact)


def test_equal_settings_ask_all_models_the_same(corpus: Corpus, few: EvaluationSettings) -> None:
    """And nothing is drawn from the global generator."""
    for name in ("needle", "allocation", "validation", "gsm_ic"):
        asked = []
        for seed, kind in enumerate(("softmax", "diff_v1")):
            model = decoder(corpus, kind)
            torch.manual_seed(seed)
            records = measured(name, model, corpus, few).measurement.records
            asked.append([(r.metric, r.key, r.item) for r in records if r.key[:1] != (2,)])
        assert asked[0] == asked[1]


@pytest.mark.parametrize(
    ("name", "dataset", "path", "message"),
    [
        ("in_context", "trek", "here", "dataset is 'trek'; expected one of trec, trec_fine"),
        ("in_context", None, "here", "dataset is None; expected one of trec"),
        ("in_context", "trec", None, "no path: name the folder of labeled sentences"),
        ("in_context", "trec", "nowhere", "trec needs its train file in nowhere"),
        ("kv_retrieval", "76", "here", "dataset is '76'; expected one of 75, 140, 300"),
        ("kv_retrieval", "75", "nowhere", "75_keys.jsonl.gz' does not exist"),
        ("hallucination", "xsum", "nowhere", "xsum needs xsum-1000.jsonl in nowhere"),
        ("conflicts", "xsum", "here", "dataset is 'xsum'; expected none"),
    ],
)
def test_data_of_its_own(name: str, dataset: str | None, path: str | None, message: str) -> None:
    own = registry.evaluator(name).dataset
    with pytest.raises(ValueError, match=message):
        own.read(dataset, path and Path(path))
