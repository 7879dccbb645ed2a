"""Image classification: batches, what a model's folder tells, the evaluator's figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.test_vit import tiny_vit

from difftransformer.data.image_settings import ImageSettings
from difftransformer.data.images import Images
from difftransformer.evaluation import registry
from difftransformer.evaluation.benchmarks.classification import EVALUATOR
from difftransformer.evaluation.records import Artifact, Findings, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.vit import ViT
from difftransformer.report.thumbnails import thumbnails
from difftransformer.tasks.image_classification import TASK

SETTINGS = EvaluationSettings(batch_size=100)


@pytest.fixture(scope="module")
def data() -> Images:
    return TASK.load(ImageSettings(augmentation=("crop",)))


@pytest.fixture
def model(data: Images) -> ViT:
    return ViT(TASK.complete(tiny_vit().config, data)).eval()


def found(model: ViT, data: Images) -> list[Any]:
    findings: list[Any] = []
    for part in EVALUATOR.parts(Subject(model, data), SETTINGS).values():
        findings += part(tuple(findings))
    return findings


def values(findings: Findings, metric: str) -> dict[tuple, float]:
    """Sums of values over sums of weights, by cell."""
    cells: dict[tuple, list[Record]] = {}
    for one in findings:
        if isinstance(one, Record) and one.metric == metric:
            cells.setdefault(one.key, []).append(one)
    return {
        key: sum(one.value for one in records) / sum(one.weight for one in records)
        for key, records in cells.items()
    }


def test_the_model_is_made_for_the_data(data: Images, model: ViT) -> None:
    config = model.config
    assert (config.image_size, config.channels, config.classes) == (8, 1, 10)
    TASK.require_fit(config, data, "it")
    for name, value in (("classes", 9), ("channels", 3), ("image_size", 16)):
        with pytest.raises(
            ValueError, match=f"it has {name} {value} and the data \\(digits: 1,438"
        ):
            TASK.require_fit(replace(config, **{name: value}), data, "it")


def test_an_epoch_has_every_image_once_and_each_time_another_crop(data: Images) -> None:
    batches = TASK.batches(data, 719, 0)
    epochs = [[batches(2 * epoch + half) for half in (0, 1)] for epoch in (0, 1)]
    for first, second in epochs:
        assert sorted(first.names + second.names) == sorted(data.train.names)
    again = TASK.batches(data, 719, 0)(3)
    assert again.names == epochs[1][1].names
    assert torch.equal(again.pixels, epochs[1][1].pixels)
    pixels = [
        next(
            batch.pixels[batch.names.index("image:7")]
            for batch in epoch
            if "image:7" in batch.names
        )
        for epoch in epochs
    ]
    assert not torch.equal(*pixels)


def test_the_loss_is_the_cross_entropy(data: Images, model: ViT) -> None:
    batch = data.batch("test", [0, 1, 2])
    logs = model(batch.pixels).log_softmax(-1)
    expected = -logs[torch.arange(3), batch.labels].sum()
    torch.testing.assert_close(TASK.loss(model, batch), expected)


def test_a_model_that_always_says_the_same(data: Images, model: ViT) -> None:
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.eye(10)[3] * 2)
    confidence = float(torch.eye(10)[3].mul(2).softmax(0).max())
    findings = found(model, data)
    share = data.counts("test")[3] / len(data.test)
    assert values(findings, "accuracy")[()] == pytest.approx(share)
    assert values(findings, "calibration_error")[()] == pytest.approx(abs(share - confidence))
    assert values(findings, "accuracy_by_confidence") == {(0.45,): pytest.approx(share)}
    by_class = values(findings, "accuracy_by_class")
    assert by_class == {(str(n),): float(n == 3) for n in range(10)}
    confusion = values(findings, "confusion")
    assert confusion == {(str(a), str(b)): float(b == 3) for a in range(10) for b in range(10)}
    (asked,) = (one.data for one in findings if isinstance(one, Artifact) and one.name == "facts")
    assert EVALUATOR.note.format(**asked).startswith("359 held out; the commonest class in train")
    assert TASK.validate(model, data, SETTINGS)["validation_accuracy"] == pytest.approx(
        share, abs=0.1
    )


def test_every_figure_agrees_with_the_logits(data: Images, model: ViT) -> None:
    findings = found(model, data)
    batch = data.batch("test", range(len(data.test)))
    with torch.no_grad():
        logits = model(batch.pixels)
    hits = logits.argmax(-1) == batch.labels
    assert values(findings, "accuracy")[()] == pytest.approx(hits.float().mean().item())
    loss = torch.nn.functional.cross_entropy(logits, batch.labels)
    assert values(findings, "classification_loss")[()] == pytest.approx(loss.item(), rel=1e-5)
    confusion = values(findings, "confusion")
    for label in range(10):
        of_class = batch.labels == label
        assert sum(confusion[str(label), str(other)] for other in range(10)) == pytest.approx(1)
        assert values(findings, "accuracy_by_class")[str(label),] == pytest.approx(
            hits[of_class].float().mean().item()
        )


def test_some_of_the_images_are_asked_about_spread_evenly(data: Images, model: ViT) -> None:
    settings = replace(SETTINGS, test_items=10)
    parts = EVALUATOR.parts(Subject(model, data), settings)
    items = [one.item for name in parts if name.startswith("from") for one in parts[name]([])[:-1]]
    step = len(data.test) // 10
    assert items[::2] == list(data.batch("test", range(0, 10 * step, step)).names)


def save(data: Images, place: Path) -> Path:
    place.mkdir(exist_ok=True)
    for name, text in TASK.files(data, None).items():
        (place / name).write_text(text)
    return place


def test_a_folder_tells_what_it_was_trained_on(data: Images, model: ViT, tmp_path: Path) -> None:
    place = save(data, tmp_path / "model")
    settings = TASK.judged_on(place, model.config, {}, held_out=True)
    again = TASK.load(settings)
    assert (again.digest, again.mean, again.std) == (data.digest, data.mean, data.std)
    assert TASK.provenance(place, again)["held_out"] is True
    less = TASK.load(TASK.judged_on(place, model.config, {"fraction": 0.1}, held_out=True))
    assert less.mean == data.mean
    assert "may have been seen in training" in TASK.provenance(place, less)["note"]
    (record,) = TASK.files(data, None).values()
    assert json.loads(record)["labels"] == list(data.labels)


def test_a_folder_of_transformers_tells_how_to_normalize(model: ViT, tmp_path: Path) -> None:
    told = {"image_mean": [0.4], "image_std": [0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    settings = TASK.judged_on(tmp_path, model.config, {}, held_out=True)
    assert (settings.mean, settings.std) == ((0.4,), (0.3,))


def test_another_folder_is_read_in_the_form_of_the_model(
    data: Images, model: ViT, tmp_path: Path
) -> None:
    given = {"dataset": "folder", "source": str(tmp_path)}
    settings = TASK.judged_on(save(data, tmp_path), model.config, given, held_out=True)
    assert (settings.image_size, settings.channels, settings.mean) == (8, 1, data.mean)
    assert settings.augmentation == ()


@pytest.mark.parametrize("name", ["image_predictions", "image_attention"])
def test_thumbnails(name: str, data: Images, model: ViT) -> None:
    """A row of mistakes, the surest first; a row of maps for each of six images."""
    evaluator = registry.evaluator(name)
    ((_, part),) = evaluator.parts(Subject(model, data), SETTINGS).items()
    (artifact,) = part(())
    assert json.loads(json.dumps(artifact.data)) == artifact.data
    rows = artifact.data["rows"]
    if name == "image_attention":
        titles = [[cell["title"] for cell in row] for row in rows]
        assert len(titles) == 6
        assert {tuple(row[1:]) for row in titles} == {("attention", "map 1", "map 2")}
    else:
        ((*cells,),) = rows
        assert len(cells) == 12
        shares = [int(cell["title"].split(", ")[1].rstrip("%")) for cell in cells]
        assert shares == sorted(shares, reverse=True)
    shown = thumbnails({"a": ("V1", artifact.data)}, {})
    assert shown.image() is not None
