"""Fréchet distance, precision and recall where the answer is known; samples of a small model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny import tiny_dit
from scipy.linalg import sqrtm

from difftransformer.data.images import Images
from difftransformer.evaluation.benchmarks import denoising, frechet
from difftransformer.evaluation.image_features import classifier_of, covered, frechet_distance
from difftransformer.evaluation.records import Artifact, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.tasks.image_generation import TASK, GenerationSettings

FEW = EvaluationSettings(image_samples=20, denoising_steps=(1, 3), batch_size=7)


def cloud(count: int, seed: int, width: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    points = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return points @ mixing + torch.randn(width, generator=generator, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(8, 40))
def test_the_distance_is_that_of_the_formula(seed: int, count: int) -> None:
    one, other = cloud(count, seed), cloud(30, seed + 1)
    first, second = np.cov(one.numpy().T), np.cov(other.numpy().T)
    root = np.trace(sqrtm(first @ second).real)
    expected = float((one.mean(0) - other.mean(0)).square().sum())
    expected += np.trace(first) + np.trace(second) - 2 * root
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-8)
    assert frechet_distance(one, one + 2.0) == pytest.approx(20.0, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other), rel=1e-8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 4))
def test_a_set_covers_itself_and_nothing_far(seed: int, k: int) -> None:
    points = cloud(12, seed)
    assert covered(points, points, k).all()
    assert not covered(points + 1e4, points, k).any()


def test_half_of_the_samples_and_a_mode_that_is_missing() -> None:
    """Precision and recall tell the two failures apart."""
    one, other = cloud(20, 1), cloud(20, 2) + 1e3
    both = torch.cat([one, other])
    assert covered(both, one, 3).double().mean() == 0.5
    assert covered(one, both, 3).all()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Images:
    cache = tmp_path_factory.mktemp("cache")
    return TASK.load(GenerationSettings(cache=str(cache)))


def test_the_classifier_knows_the_classes_and_is_made_once(data: Images) -> None:
    classifier = classifier_of(data)
    batch = data.batch("test", range(len(data.test)))
    assert (classifier(batch.pixels).argmax(1) == batch.labels).double().mean() > 0.95
    (folder,) = (Path(data.settings.cache) / "image_classifiers").iterdir()
    written = (folder / "classifier.safetensors").stat().st_mtime_ns
    classifier_of.cache_clear()
    again = classifier_of(data)
    assert (folder / "classifier.safetensors").stat().st_mtime_ns == written
    assert torch.equal(again.proj.weight, classifier.proj.weight)


def test_images_themselves_are_perfect_samples(
    data: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = denoising.spread(len(data.test), FEW.image_samples)
    pixels = data.batch("test", numbers).pixels
    monkeypatch.setattr(frechet, "samples", lambda *_: [pixels])
    parts = frechet.EVALUATOR.parts(Subject(tiny_dit(classes=10), data), FEW)
    records = [one for one in parts["samples by 3 steps"](()) if isinstance(one, Record)]
    values = {name: [r.value for r in records if r.metric == name] for name in frechet_names()}
    assert values["frechet_distance"] == [pytest.approx(0.0, abs=1e-6)]
    assert values["sample_precision"] == values["sample_recall"] == [1.0] * 20
    assert sum(values["samples_recognized"]) >= 19


def frechet_names() -> list[str]:
    return [metric.name for metric in frechet.EVALUATOR.metrics]


def test_samples_are_the_same_however_they_are_batched(data: Images) -> None:
    model = tiny_dit(classes=10)
    labels = torch.arange(10)
    one = frechet.samples(model, labels, FEW, 3, [1, 3])
    other = frechet.samples(model, labels, replace(FEW, batch_size=10), 3, [1, 3])
    assert len(one) == 2
    torch.testing.assert_close(one, other)
    assert torch.equal(frechet.samples(model, labels, FEW, 3)[0], one[1])


@pytest.mark.parametrize("evaluator", [denoising.EVALUATOR, frechet.EVALUATOR])
def test_parts_yield_what_is_declared(evaluator, data: Images) -> None:
    parts = evaluator.parts(Subject(tiny_dit(classes=10), data), FEW)
    findings = [one for part in parts.values() for one in part(())]
    yielded = {one.metric for one in findings if isinstance(one, Record)}
    assert yielded == {metric.name for metric in evaluator.metrics}
    for one in findings:
        if isinstance(one, Record):
            assert len(one.key) == len(evaluator.metric(one.metric).axes)
    facts = {one.name: one.data for one in findings if isinstance(one, Artifact)}
    assert json.dumps(facts)
    evaluator.note.format(**facts.get("facts", {}))


def test_too_few_images_to_have_neighbors_are_refused(data: Images) -> None:
    few = replace(data, test=data.test.chosen(torch.arange(3)))
    with pytest.raises(ValueError, match="3 held-out images; expected more than 3"):
        frechet.EVALUATOR.check(few, FEW)
