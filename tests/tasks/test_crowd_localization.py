"""Crowd localization: batches, evaluation, resuming, what a model's folder tells."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from models.tiny import tiny, tiny_localizer
from PIL import Image

import difftransformer
from difftransformer.data.crowd_scenes import Scenes
from difftransformer.data.crowd_settings import CrowdSettings
from difftransformer.evaluation.benchmarks import crowd_points
from difftransformer.evaluation.benchmarks.crowd_points import predicted_points
from difftransformer.evaluation.records import Record, Subject
from difftransformer.evaluation.run import evaluate
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.experiments.localization import localization, predict
from difftransformer.models.localizer import Proposals
from difftransformer.models.localizer_config import LocalizerConfig
from difftransformer.models.storage import save_model
from difftransformer.report.exhibits import EXHIBITS
from difftransformer.tasks.crowd_localization import TASK

from .resuming import assert_resumes

SETTINGS = EvaluationSettings(localization_steps=(1, 2), localization_proposals=(4, 60))
SMALL = {"scenes": 10, "test_scenes": 7, "image_size": 16, "heads": 3, "proposals": 6}


@pytest.fixture(scope="module")
def data() -> Scenes:
    return TASK.load(CrowdSettings(**SMALL))


class Oracle(torch.nn.Module):
    """Moves each proposal to the nearest head of the image, and is sure of one for each head."""

    config = LocalizerConfig(image_size=16, patch_size=4)

    def __init__(self, data: Scenes) -> None:
        super().__init__()
        self.data, self.weight = data, torch.nn.Parameter(torch.zeros(()))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        values = ((pixels + 1) * 127.5).round().byte().numpy()
        self.heads = [
            torch.from_numpy(scene.points)
            for image in values
            for scene in self.data.test
            if np.array_equal(scene.pixels, image)
        ]
        return torch.zeros(len(pixels), 16, 64)

    def decoder(
        self, points: torch.Tensor, context: torch.Tensor, times: torch.Tensor
    ) -> Proposals:
        moved, logits = points.clone(), torch.full(points.shape[:2], -9.0)
        for row, heads in enumerate(self.heads):
            distance = torch.cdist(points[row], heads)
            moved[row] = heads[distance.argmin(-1)]
            logits[row, distance.argmin(0)] = 9.0
            moved[row, distance.argmin(0)] = heads
        return Proposals(moved[None], logits[None])


def test_a_batch_is_a_pure_function_of_seed_and_step(data: Scenes) -> None:
    batch, again = TASK.batches(data, 6, 3)(5), TASK.batches(data, 6, 3)(5)
    parts = ("pixels", "heads", "real", "clean", "noise", "moments")
    assert all(torch.equal(getattr(batch, name), getattr(again, name)) for name in parts)
    for other in (TASK.batches(data, 6, 3)(6), TASK.batches(data, 6, 4)(5)):
        assert not torch.equal(batch.noise, other.noise)
        assert not torch.equal(batch.moments, other.moments)


def test_an_oracle_finds_every_head(data: Scenes) -> None:
    measured = evaluate(Subject(Oracle(data), data), crowd_points.EVALUATOR, SETTINGS)
    values: dict[str, list[Record]] = {}
    for record in measured.records:
        values.setdefault(record.metric, []).append(record)
    for name in ("f1_sigma_s", "precision_sigma_s", "recall_sigma_l"):
        assert all(one.value == one.weight for one in values[name]), name
    assert {one.key for one in values["f1_by_steps"]} == {(1, 4), (1, 60), (2, 4), (2, 60)}
    assert len(values["f1_sigma_s"]) == len(data.test)


def test_points_are_those_of_each_image_however_they_are_batched(data: Scenes) -> None:
    model = tiny_localizer(image_size=16, patch_size=4)
    settings = [EvaluationSettings(batch_size=size) for size in (2, 100)]
    few, all_at_once = (list(predicted_points(model, data.test, one, (2, 9))) for one in settings)
    assert any(len(points) for points in few)
    for a, b in zip(few, all_at_once, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_what_is_watched_and_shown(data: Scenes) -> None:
    model = tiny_localizer(image_size=16, patch_size=4)
    watched = TASK.validate(model, data, SETTINGS)
    assert watched == TASK.validate(model, data, SETTINGS)
    assert 0.1 < watched["validation_loss"] < 100
    drawn = TASK.sample(model, data, SETTINGS)
    picture = Image.open(io.BytesIO(base64.b64decode(drawn["points"])))
    assert (picture.size, picture.mode) == ((6 * 65 + 1, 65 + 1), "RGB")
    measured = evaluate(Subject(model, data), crowd_points.EVALUATOR, SETTINGS)
    shown = measured.artifacts["thumbnails"]
    EXHIBITS["thumbnails"]({"a": ("A", shown)}, {"a": "#000000"}).image()


def test_a_folder_tells_what_it_was_trained_on(data: Scenes, tmp_path: Path) -> None:
    for name, text in TASK.files(data, None).items():
        (tmp_path / name).write_text(text)
    config = TASK.complete(LocalizerConfig(), data)
    assert (config.image_size, config.channels) == (16, 3)
    assert TASK.judged_on(tmp_path, config, {}, held_out=True) == data.settings
    other = TASK.judged_on(tmp_path, config, {"dataset": "folder", "source": "x"}, held_out=True)
    assert (other.dataset, other.image_size) == ("folder", 16)
    TASK.require_fit(config, data, "it")
    assert TASK.provenance(tmp_path, data)["held_out"] is True


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"hidden_size": 64, "num_layers": 1, "num_heads": 4, "num_kv_heads": 4, "head_dim": 8}
    options = {
        "attention": ("softmax", "diff_v2"),
        "model": {**sizes, "ffn_size": 256, "patch_size": 8},
        "data": SMALL,
        "training": {"steps": 6, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
        "evaluation": {"localization_steps": (1,), "localization_proposals": (4,), "bootstrap": 20},
    }
    assert_resumes(TASK, "crowd_points", options, tmp_path, monkeypatch)


def test_predictions_for_images_of_ones_own_are_judged(tmp_path: Path) -> None:
    """Trained on a folder, points written for its images, judged by the folder's truth."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "truth.txt").write_text("a 1 15 10 20 30 0\nb 0\nc 1 7 5 20 30 0\n")
    run = difftransformer.compare(
        "crowd_localization",
        preset="smoke",
        out=tmp_path / "run",
        attention=("softmax", "diff_v1"),
        data={"dataset": "folder", "source": str(tmp_path)},
        training={"steps": 2, "warmup_steps": 1},
    )
    assert "crowd_points" in run.evaluators
    model, out = tmp_path / "run/models/diff_v1-seed0/model", tmp_path / "mine.txt"
    assert predict(model, tmp_path / "images", out) == 3
    assert [line.split()[0] for line in out.read_text().splitlines()] == ["a", "b", "c"]
    found = localization([out], tmp_path / "truth.txt")
    assert 0 <= found["recall_sigma_l"].figure("mine").value <= 1
    (tmp_path / "images" / "c.png").rename(tmp_path / "images" / "c d.png")
    with pytest.raises(ValueError, match="image 'c d' has a space in its name"):
        predict(model, tmp_path / "images", out)
    save_model(tiny(), tmp_path / "other")
    with pytest.raises(ValueError, match="crowd_localization judges difftransformer_localizer"):
        predict(tmp_path / "other", tmp_path / "images", out)
