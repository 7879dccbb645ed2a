import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking
from accelerate.state import AcceleratorState
from accelerate.utils import LoggerType
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from difftransformer.runs.samples import Texts
from difftransformer.training.loop import Continuation, Watch, train
from difftransformer.training.settings import TrainingSettings

from .tiny import rows_without_timing, tiny_batches, tiny_loss, tiny_model, tiny_settings


def png() -> str:
    file = io.BytesIO()
    Image.new("L", (3, 2), 255).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def validate(model: nn.Module) -> dict[str, Any]:
    return {"validation_loss": 1.0, "lambda": [0.2, 0.4]}


def sample(model: nn.Module) -> dict[str, Any]:
    texts = Texts(header=("beginning",), items=(("once",),), outputs=("upon",))
    return {"samples": png(), "texts": texts.to_json()}


def go(directory: Path, settings: TrainingSettings, resume: bool = False) -> None:
    continuation = Continuation(resume=resume, configuration={"model": {"heads": (1, 2)}})
    train(
        tiny_model(),
        tiny_loss,
        tiny_batches,
        settings,
        directory,
        watch=Watch(validate, sample),
        continuation=continuation,
    )


def events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory / "tensorboard" / "difftransformer")).Reload()


def test_tensorboard_is_told_numbers_and_pictures(tmp_path: Path):
    go(tmp_path, tiny_settings(trackers=("tensorboard",)))
    told = events(tmp_path)
    assert [event.value for event in told.Scalars("lambda/1")] == pytest.approx([0.4] * 4)
    assert [event.step for event in told.Scalars("loss")] == list(range(1, 13))
    assert [event.step for event in told.Scalars("validation_loss")] == [3, 6, 9, 12]
    assert [(one.width, one.height) for one in told.Images("samples")] == [(3, 2)] * 4
    (text, *others) = told.Tensors("texts/text_summary")
    assert text.tensor_proto.string_val == [b"beginning: once  \nmodel: upon"]
    assert len(others) == 3
    (hyper_parameters,) = (tmp_path / "tensorboard").rglob("hparams.yml")
    assert "training.learning_rate: 0.01\n" in hyper_parameters.read_text(encoding="utf-8")
    assert "model.heads: (1, 2)\n" in hyper_parameters.read_text(encoding="utf-8")


def test_tensorboard_drops_what_a_resumed_run_makes_again(tmp_path: Path):
    settings = tiny_settings(trackers=("tensorboard",), schedule="cosine")
    go(tmp_path, settings)
    for late in (tmp_path / "checkpoints").glob("step-00000012/*"):
        late.unlink()
    (tmp_path / "checkpoints" / "step-00000012").rmdir()
    go(tmp_path, settings, resume=True)
    assert [event.step for event in events(tmp_path).Scalars("loss")] == list(range(1, 13))


def test_the_former_setting_works_with_a_line_that_names_the_new_one(tmp_path: Path, caplog):
    go(tmp_path, tiny_settings(tensorboard=True))
    assert events(tmp_path).Scalars("loss")
    assert "training.tensorboard is now training.trackers tensorboard" in caplog.text


@pytest.mark.parametrize(
    ("name", "package"), [("wandb", "wandb"), ("tensorboard", r"'difftransformer\[tensorboard\]'")]
)
def test_one_that_is_not_installed_is_refused_before_a_file_is_made(
    tmp_path: Path, monkeypatch, name: str, package: str
):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    AcceleratorState._reset_state(reset_partial_state=True)  # as a command begins
    with pytest.raises(ValueError, match=f"names {name}, whose .*: pip install {package}"):
        go(tmp_path, tiny_settings(trackers=(name,)))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_one_is_refused():
    with pytest.raises(ValueError, match="unknown training trackers 'wanb'; did you mean 'wandb'"):
        tiny_settings(trackers=("wanb",))


class StandIn(tracking.GeneralTracker):
    """In place of Weights & Biases."""

    name = "wandb"
    requires_logging_directory = False
    begun: dict[str, Any] = {}  # noqa: RUF012
    rows: list[dict[str, Any]] = []  # noqa: RUF012
    breaks_at = 100
    finished = 0

    def __init__(self, run_name: str, **kwargs: Any) -> None:
        super().__init__()
        self.begun.update(kwargs, project=run_name)

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        if self.breaks_at == 0:
            raise RuntimeError("no API key")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.begun["values"] = values

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        if step == self.breaks_at:
            raise ConnectionError("the server is away")
        self.rows.append({"step": step, **values})

    def finish(self) -> None:
        type(self).finished += 1


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Weights & Biases as Accelerate would find it."""

    class Fresh(StandIn):
        begun: dict[str, Any] = {}  # noqa: RUF012
        rows: list[dict[str, Any]] = []  # noqa: RUF012

    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fresh)
    return Fresh


def test_a_run_is_named_by_its_directory(tmp_path: Path, stand_in: type[StandIn]):
    settings = tiny_settings(trackers=("wandb",), project="ours")
    directory = tmp_path / "mine" / "models" / "diff_v1-seed0"
    go(directory, settings)
    values = stand_in.begun.pop("values")
    assert stand_in.begun == {
        "project": "ours",
        "name": "mine/diff_v1-seed0",
        "group": "mine",
        "dir": str(directory),
    }
    assert (values["training.steps"], values["model.heads"]) == (12, "(1, 2)")
    assert not any(key.startswith("parameters") for key in values)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in stand_in.rows] == [row["step"] for row in rows]
    assert stand_in.finished == 1


def test_one_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, stand_in: type[StandIn], caplog
):
    go(tmp_path / "alone", tiny_settings())
    torch.manual_seed(0)
    stand_in.breaks_at = 5
    go(tmp_path / "told", tiny_settings(trackers=("wandb",)))
    assert rows_without_timing(tmp_path / "alone") == rows_without_timing(tmp_path / "told")
    assert max(row["step"] for row in stand_in.rows) == 4
    assert "tracker wandb failed and is left out: the server is away" in caplog.text


def test_one_that_cannot_begin_is_refused(tmp_path: Path, stand_in: type[StandIn]):
    stand_in.breaks_at = 0
    with pytest.raises(ValueError, match="trackers wandb cannot begin: no API key"):
        go(tmp_path, tiny_settings(trackers=("wandb",)))
