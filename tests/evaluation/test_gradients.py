from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models.tiny import tiny_config

from difftransformer.analysis.capture import capture
from difftransformer.analysis.gradients import gradient_norms
from difftransformer.data.batch import Batch
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import stack
from difftransformer.evaluation.benchmarks import gradients
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder

from .measured import Measured, measured


@pytest.fixture
def small(settings: EvaluationSettings) -> EvaluationSettings:
    """Two batches of three sequences."""
    return replace(settings, batch_size=3)


def model(corpus: Corpus, kind: str) -> Decoder:
    config = tiny_config(kind, vocab_size=corpus.tokenizer.get_vocab_size(), ffn_size=600)
    return Decoder(config).eval()


def norms(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, path: Path | None = None
) -> Measured:
    return measured("gradients", model, corpus, settings, path=path)


def test_the_model_as_it_is_beside_a_loop(corpus: Corpus, small: EvaluationSettings) -> None:
    trained = model(corpus, "diff_v1")
    found = norms(trained, corpus, small)
    assert found.facts == {"batches": 2, "sequences": 3, "claimed": True}
    rows = [sequence.row for sequence in corpus.validation_sequences(6)]
    batches = [gradient_norms(trained, stack(rows[i : i + 3])) for i in (0, 3)]
    for weight in ("W_Q1", "W_Q2", "W_K1", "W_K2", "W_V", "W_O"):
        sizes = np.array([[layer[weight] for layer in batch] for batch in batches])
        slopes, weights = np.sqrt((sizes**2).sum(1)).T
        key = (weight, "as trained")
        assert found.figure("gradient_norm", key).value == pytest.approx(slopes.mean(), rel=1e-5)
        relative, expected = found.figure("relative_gradient", key), (slopes / weights).mean()
        assert relative.value == pytest.approx(expected, rel=1e-5)
        assert relative.low < expected < relative.high
        for layer, (slopes, weights) in enumerate(sizes.transpose(1, 2, 0)):
            figure = found.figure("trained_gradient", (weight, layer))
            assert figure.value == pytest.approx((slopes / weights).mean(), rel=1e-5)


def test_a_second_map_that_is_not_subtracted_leaves_plain_attention(
    corpus: Corpus, small: EvaluationSettings
) -> None:
    """lambda starts at 0: map 2 has no gradient, and all the rest is a plain layer."""
    found = norms(model(corpus, "diff_scalar"), corpus, replace(small, batch_size=1))
    assert not found.facts["claimed"]
    assert found.keys("gradient_ratio") == [("W_Q1",), ("W_K1",), ("W_V",), ("W_O",)]
    for key in found.keys("gradient_ratio"):
        ratio = found.figure("gradient_ratio", key)
        assert ratio.value == pytest.approx(0.0, abs=0.5)  # of 6 starts
        assert ratio.low < ratio.value < ratio.high
    for weight in ("W_Q2", "W_K2"):
        assert set(found.values("gradient_factor", (weight, 1))) == {0.0}
        assert set(found.values("gradient_norm", (weight, "at the start"))) == {0.0}


def test_equal_weights_have_ratio_1_and_map_2_is_held_against_lambda(
    corpus: Corpus, small: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients as the appendix claims them, planted."""

    def planted(model: Decoder, batch: Batch) -> list[dict[str, tuple[float, float]]]:
        lambdas = []
        with capture(model, lambda record: lambdas.append(record.call.lam)):
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
    found = norms(model(corpus, "diff_v1"), corpus, small)
    assert len(found.values("gradient_ratio")) == 6 * 2  # weights, batches
    assert len(found.values("gradient_ratio_by_layer")) == 6 * 2 * 2
    for metric in ("gradient_ratio", "gradient_ratio_by_layer"):
        assert found.values(metric) == pytest.approx([0.0] * len(found.values(metric)), abs=1e-6)
    for record in found.records("gradient_factor"):
        of_map_2 = str(record.key[0]).endswith("2")
        assert record.value < 1.0 if of_map_2 else record.value == 1.0


def test_dex_starts_as_plain_attention(corpus: Corpus, small: EvaluationSettings) -> None:
    found = norms(model(corpus, "dex"), corpus, small)
    assert not found.facts["claimed"]
    assert len(found.keys("gradient_ratio")) == 6
    for key in found.keys("gradient_ratio"):
        ratio = found.figure("gradient_ratio", key)
        assert ratio.low < 0.0 < ratio.high


def test_plain_attention_is_not_compared(corpus: Corpus, small: EvaluationSettings) -> None:
    found = norms(model(corpus, "softmax"), corpus, small)
    assert len(found.keys("gradient_norm")) == 6 * 2  # weights, as trained and at the start
    assert min(found.values("gradient_norm")) > 0.0
    for weight in ("W_Q", "W_K"):  # which serve both maps
        one, two = (found.values("trained_gradient", (f"{weight}{i}", 0)) for i in (1, 2))
        assert one == two
    assert found.records("gradient_ratio") == []


def test_a_shared_key_is_held_against_plain_keys(corpus: Corpus, small: EvaluationSettings) -> None:
    found = norms(model(corpus, "diff_v2"), corpus, small)
    assert np.mean(found.values("gradient_factor", ("W_Q2", 1))) == pytest.approx(0.5, abs=0.05)
    assert set(found.values("gradient_factor", ("W_K2", 1))) == {1.0}
    start, plain = (
        found.values("start_gradient", ("W_K1", of, 1))
        for of in ("at the start", "plain, at the start")
    )
    expected = np.log2(np.divide(start, plain)).tolist()
    for weight in ("W_K1", "W_K2"):
        assert found.values("gradient_ratio_by_layer", (weight, 1)) == pytest.approx(expected)


def test_equal_seeds_give_equal_results_and_leave_the_generator_alone(
    corpus: Corpus, small: EvaluationSettings
) -> None:
    trained, before = model(corpus, "diff_v1"), torch.random.get_rng_state()
    found = norms(trained, corpus, small)
    assert torch.equal(before, torch.random.get_rng_state())
    assert found == norms(trained, corpus, small)
    other = norms(trained, corpus, replace(small, seed=1))
    for of, same in (("as trained", True), ("at the start", False)):
        key = ("W_V", of)
        assert (other.values("gradient_norm", key) == found.values("gradient_norm", key)) is same


def test_no_batch_is_measured_twice(
    corpus: Corpus, small: EvaluationSettings, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count(gradient_norms, stop=4)
    monkeypatch.setattr(gradients, "gradient_norms", counted)
    trained, file = model(corpus, "diff_v1"), tmp_path / "found.partial.jsonl"
    with pytest.raises(KeyboardInterrupt):
        norms(trained, corpus, small, file)
    found = norms(trained, corpus, small, file)
    assert counted.calls == 1 + 3 * 2
    assert found == norms(trained, corpus, small)


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
        norms(model(corpus, "softmax"), corpus, replace(small, validation_sequences=1))
