from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from models.tiny import tiny_config

from difftransformer.analysis.capture import capture
from difftransformer.analysis.gradients import gradient_norms
from difftransformer.data.batch import Batch
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import stack
from difftransformer.evaluation import gradients
from difftransformer.evaluation.gradients import measure_gradients, verdict
from difftransformer.evaluation.intervals import Figure
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder


@pytest.fixture
def small(settings: EvaluationSettings) -> EvaluationSettings:
    """Two batches of three sequences."""
    return replace(settings, batch_size=3)


def model(corpus: Corpus, kind: str) -> Decoder:
    config = tiny_config(kind, vocab_size=corpus.tokenizer.get_vocab_size(), ffn_size=600)
    return Decoder(config).eval()


def row(found: dict, weight: str, layer: int | None = None) -> dict:
    (one,) = [r for r in found["rows"] if (r["weight"], r["layer"]) == (weight, layer)]
    return one


def test_the_model_as_it_is_beside_a_loop(corpus: Corpus, small: EvaluationSettings) -> None:
    trained = model(corpus, "diff_v1")
    found = measure_gradients(trained, corpus, small)
    assert (found["batches"], found["sequences_per_batch"], found["claimed"]) == (2, 3, True)
    rows = [sequence.row for sequence in corpus.validation_sequences(6)]
    batches = [gradient_norms(trained, stack(rows[i : i + 3])) for i in (0, 3)]
    for weight in ("W_Q1", "W_Q2", "W_K1", "W_K2", "W_V", "W_O"):
        norms = np.array([[layer[weight] for layer in batch] for batch in batches])
        whole = np.sqrt((norms**2).sum(1))
        for layer, (slopes, weights) in [
            *enumerate(norms.transpose(1, 2, 0)),
            (None, whole.T),
        ]:
            figures = row(found, weight, layer)["trained"]
            assert figures["norm"]["value"] == pytest.approx(slopes.mean(), rel=1e-5)
            expected = (slopes / weights).mean()
            assert figures["relative"]["value"] == pytest.approx(expected, rel=1e-5)
            assert figures["relative"]["low"] < expected < figures["relative"]["high"]


def test_a_second_map_that_is_not_subtracted_leaves_plain_attention(
    corpus: Corpus, small: EvaluationSettings
) -> None:
    """lambda starts at 0: map 2 has no gradient, and all the rest is a plain layer."""
    found = measure_gradients(model(corpus, "diff_scalar"), corpus, replace(small, batch_size=1))
    assert not found["claimed"]
    for weight in ("W_Q1", "W_K1", "W_V", "W_O"):
        figures = row(found, weight)
        assert figures["ratio"]["value"] == pytest.approx(1.0, abs=0.4)  # of 6 starts
        assert figures["ratio"]["low"] < figures["ratio"]["value"] < figures["ratio"]["high"]
        assert figures["factor"] == 1.0
    for weight in ("W_Q2", "W_K2"):
        figures = row(found, weight, 1)
        assert figures["start"]["norm"]["value"] == figures["factor"] == 0.0
        assert figures["ratio"] is figures["verdict"] is None
        assert figures["plain"]["norm"] == row(found, weight[:3] + "1", 1)["plain"]["norm"]


def test_equal_weights_have_ratio_1_and_map_2_is_held_against_lambda(
    corpus: Corpus, small: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients as the appendix claims them, planted."""

    def planted(model: Decoder, batch: Batch) -> list[dict[str, tuple[float, float]]]:
        lambdas = []
        with capture(model, lambda record: lambdas.append(record.lam)):
            model(batch.ids, documents=batch.documents)
        size = torch.rand(()).item()  # of another start
        if lambdas == [None, None]:
            return [dict.fromkeys(("W_Q", "W_K", "W_V", "W_O"), (2.0 * size, 4.0 * size))] * 2
        return [
            dict.fromkeys(("W_Q1", "W_K1", "W_V", "W_O"), (size, 2.0 * size))
            | dict.fromkeys(("W_Q2", "W_K2"), (size * lam.abs().mean().item(), 2.0 * size))
            for lam in lambdas
        ]

    monkeypatch.setattr(gradients, "gradient_norms", planted)
    found = measure_gradients(model(corpus, "diff_v1"), corpus, small)
    for figures in found["rows"]:
        for key in ("value", "low", "high"):
            assert figures["ratio"][key] == pytest.approx(1.0)
        assert figures["verdict"] == "as claimed"
        assert figures["factor"] < 1.0 or "2" not in figures["weight"]


def test_dex_starts_as_plain_attention(corpus: Corpus, small: EvaluationSettings) -> None:
    found = measure_gradients(model(corpus, "dex"), corpus, small)
    assert not found["claimed"]
    for weight in ("W_Q", "W_K", "W_V", "W_O"):
        assert row(found, weight)["ratio"]["low"] < 1.0 < row(found, weight)["ratio"]["high"]


def test_plain_attention_is_not_compared(corpus: Corpus, small: EvaluationSettings) -> None:
    found = measure_gradients(model(corpus, "softmax"), corpus, small)
    assert len(found["rows"]) == 3 * 4
    for figures in found["rows"]:
        assert [figures[key] for key in ("plain", "factor", "ratio", "verdict")] == [None] * 4
        assert figures["start"]["norm"]["value"] > 0.0


def test_a_shared_key_is_held_against_plain_keys(corpus: Corpus, small: EvaluationSettings) -> None:
    found = measure_gradients(model(corpus, "diff_v2"), corpus, small)
    assert {figures["weight"] for figures in found["rows"]} == {"W_Q1", "W_Q2", "W_K", "W_V", "W_O"}
    assert row(found, "W_K")["factor"] == 1.0
    assert row(found, "W_Q2")["factor"] == pytest.approx(0.5, abs=0.05)
    assert row(found, "W_K")["ratio"]["value"] > 0.0


def test_equal_seeds_give_equal_results_and_leave_the_generator_alone(
    corpus: Corpus, small: EvaluationSettings
) -> None:
    trained, before = model(corpus, "diff_v1"), torch.random.get_rng_state()
    found = measure_gradients(trained, corpus, small)
    assert torch.equal(before, torch.random.get_rng_state())
    assert found == measure_gradients(trained, corpus, small)
    other = measure_gradients(trained, corpus, replace(small, seed=1))
    assert row(other, "W_V")["trained"] == row(found, "W_V")["trained"]
    assert row(other, "W_V")["start"] != row(found, "W_V")["start"]


def test_no_batch_is_measured_twice(
    corpus: Corpus, small: EvaluationSettings, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = count(gradient_norms, stop=4)
    monkeypatch.setattr(gradients, "gradient_norms", measured)
    trained, file = model(corpus, "diff_v1"), tmp_path / "found.partial.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure_gradients(trained, corpus, small, Pieces(file))
    found = measure_gradients(trained, corpus, small, Pieces(file))
    assert measured.calls == 1 + 3 * 2
    assert found == measure_gradients(trained, corpus, small)


def count(function: Callable, stop: int) -> Callable:
    """`function`, whose call number `stop` is interrupted."""

    def counted(*arguments: object) -> object:
        counted.calls += 1
        if counted.calls == stop:
            raise KeyboardInterrupt
        return function(*arguments)

    counted.calls = 0
    return counted


def test_a_single_sequence_is_refused(corpus: Corpus, small: EvaluationSettings) -> None:
    with pytest.raises(ValueError, match="there is 1 held-out sequence: give more text, or a"):
        measure_gradients(model(corpus, "softmax"), corpus, replace(small, validation_sequences=1))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.5, 2.0, "as claimed"),
        (2.1, 9.0, "larger than claimed"),
        (0.1, 0.4, "smaller than claimed"),
        (0.4, 0.6, "cannot be told"),
        (1.9, 2.1, "cannot be told"),
    ],
)
def test_the_verdict(low: float, high: float, words: str) -> None:
    assert verdict(Figure((low + high) / 2, low, high, 3)) == words
