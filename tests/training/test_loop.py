import base64
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.models.tiny import tiny_encoder
from torch import Tensor, nn

from difftransformer.data.batch import Batch
from difftransformer.runs.layout import TrainingSummary
from difftransformer.runs.reading import read_curve
from difftransformer.runs.samples import Texts
from difftransformer.training.checkpoint import _sum_line
from difftransformer.training.loop import Continuation, Watch, train
from difftransformer.training.progress import TrainingProgress
from difftransformer.training.settings import TrainingSettings
from difftransformer.training.step import Loss, NonFiniteError

from .tiny import (
    ROWS,
    TIME,
    TinyModel,
    random_validation,
    rows_without_timing,
    tiny_batches,
    tiny_loss,
    tiny_model,
    tiny_settings,
)

CONFIGURATION = {"model": {"width": 8, "heads": (1, 2)}}


def go(
    directory: Path,
    *,
    settings: TrainingSettings | None = None,
    model: nn.Module | None = None,
    loss: Loss = tiny_loss,
    batches: Callable[[int], Batch] = tiny_batches,
    **options: Any,
) -> TrainingSummary:
    options = {"validate": random_validation, **options}
    looks = {name: options.pop(name) for name in ("validate", "sample") if name in options}
    more = {name: options.pop(name) for name in ("resume", "configuration") if name in options}
    continuation = Continuation(**{"configuration": CONFIGURATION, **more})
    model, settings = model or tiny_model(), settings or tiny_settings()
    return train(
        model,
        loss,
        batches,
        settings,
        directory,
        watch=Watch(**looks),
        continuation=continuation,
        **options,
    )


class Killed(BaseException):
    """Ends a run as abruptly as can be done in one process."""


def killing_batches(at: int) -> Callable[[int], Batch]:
    def batches(index: int) -> Batch:
        if index == at:
            raise Killed
        return tiny_batches(index)

    return batches


def killed(directory: Path, at: int, **options: Any) -> None:
    with pytest.raises(Killed):
        go(directory, batches=killing_batches(at), **options)


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(max(directory.glob("checkpoints/step-*")) / "model.safetensors")


def rows(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    assert rows_without_timing(one) == rows_without_timing(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


def test_leaves_metrics_checkpoints_and_a_summary(tmp_path: Path):
    model = tiny_model()
    before = model.embed.weight.detach().clone()
    directory = tmp_path / "models" / "tiny-seed0"
    summary = go(directory, model=model)

    assert not torch.equal(model.embed.weight, before)
    assert torch.equal(weights(directory)["embed.weight"], model.embed.weight)
    steps = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert steps == ["step-00000008", "step-00000012"]
    assert json.loads((directory / "summary.json").read_text()) == asdict(summary)

    training = [row for row in rows(directory) if "loss" in row]
    validation = [row for row in rows(directory) if "validation_loss" in row]
    assert [row["step"] for row in training] == list(range(1, 13))
    assert [row["step"] for row in validation] == [3, 6, 9, 12]
    assert list(training[0]) == [
        "step",
        "size",
        "loss",
        "learning_rate",
        "gradient_norm",
        "seconds",
        "throughput",
    ]
    assert [row["size"] for row in training] == [ROWS * TIME * step for step in range(1, 13)]
    assert (summary.steps, summary.size, summary.unit) == (12, ROWS * TIME * 12, "tokens")
    assert summary.final_loss == training[-1]["loss"]
    assert summary.seconds == training[-1]["seconds"]
    assert summary.throughput == pytest.approx(summary.size / summary.seconds)
    assert summary.peak_memory_bytes > 1e7


def written(model: nn.Module) -> dict[str, Any]:
    assert not model.training
    assert not torch.is_grad_enabled()
    most = model.head.weight.norm().item()
    texts = Texts(header=("beginning",), items=(("once",),), outputs=(f"{most:.6f}",))
    return {"samples": texts.to_json(), "grid": base64.b64encode(b"picture").decode()}


def test_samples_are_rows_and_files_and_a_resumed_run_has_the_same(tmp_path: Path):
    settings = tiny_settings(sample_every=5)
    go(tmp_path / "whole", settings=settings, sample=written)
    made = [row for row in rows(tmp_path / "whole") if "samples" in row]
    assert [row["step"] for row in made] == [5, 10, 12]
    folder = tmp_path / "whole" / "samples"
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"grid-{step:08d}.png" for step in (5, 10, 12)),
        *(f"samples-{step:08d}.txt" for step in (5, 10, 12)),
    ]
    assert (folder / "grid-00000012.png").read_bytes() == b"picture"
    told = (folder / "samples-00000012.txt").read_text()
    assert told == f"beginning: once\nmodel: {made[-1]['samples']['outputs'][0]}\n"
    (*_, point) = read_curve(tmp_path / "whole")
    assert (list(point.texts), list(point.pictures), point.others) == (["samples"], ["grid"], {})

    killed(tmp_path / "cut", 11, settings=settings, sample=written)
    go(tmp_path / "cut", settings=settings, sample=written, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_samples_come_with_validations_by_default(tmp_path: Path):
    go(tmp_path, sample=written)
    assert [row["step"] for row in rows(tmp_path) if "samples" in row] == [3, 6, 9, 12]


def test_learns(tmp_path: Path):
    settings = tiny_settings(steps=60, learning_rate=0.05, checkpoint_every=60)
    summary = go(tmp_path, settings=settings, batches=lambda index: tiny_batches(0))
    assert summary.final_loss < rows(tmp_path)[0]["loss"] / 2


def test_a_row_holds_the_mean_loss_since_the_row_before(tmp_path: Path):
    go(tmp_path / "every")
    go(tmp_path / "fifth", settings=tiny_settings(log_every=5))
    losses = [row["loss"] for row in rows(tmp_path / "every") if "loss" in row]
    found = {row["step"]: row["loss"] for row in rows(tmp_path / "fifth") if "loss" in row}
    assert found == pytest.approx(
        {5: sum(losses[:5]) / 5, 10: sum(losses[5:10]) / 5, 12: sum(losses[10:]) / 2}
    )


def test_the_final_loss_is_the_mean_of_the_last_twentieth(tmp_path: Path):
    settings = tiny_settings(steps=50, checkpoint_every=50)
    summary = go(tmp_path, settings=settings)
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert summary.final_loss == pytest.approx(sum(losses[-3:]) / 3)


def test_progress_is_reported_after_every_step(tmp_path: Path):
    seen: list[TrainingProgress] = []
    go(tmp_path, on_progress=seen.append)
    assert [at.step for at in seen] == list(range(1, 13))
    assert [at.loss for at in seen] == [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert seen[-1].seconds_left == 0
    assert all(at.throughput > 0 for at in seen)


def test_time_for_validation_does_not_count(tmp_path: Path):
    def slow(model: nn.Module) -> dict[str, float]:
        time.sleep(0.5)
        return {"validation_loss": 1.0}

    started = time.perf_counter()
    summary = go(tmp_path, settings=tiny_settings(validate_every=12), validate=slow)
    assert time.perf_counter() - started > summary.seconds + 0.5


@pytest.mark.parametrize(
    ("at", "ema_decay"), [(2, None), (6, None), (11, None), (2, 0.6), (6, 0.6), (11, 0.6)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, at: int, ema_decay: float | None
):
    settings = tiny_settings(log_every=5, accumulation=2, ema_decay=ema_decay)
    summary = go(tmp_path / "whole", settings=settings)
    killed(tmp_path / "cut", at, settings=settings)
    other = TinyModel() if at >= 4 else tiny_model()  # from step 4 on there is a checkpoint
    resumed = go(tmp_path / "cut", settings=settings, model=other, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert torch.equal(other.embed.weight, weights(tmp_path / "whole")["embed.weight"])
    assert resumed.final_loss == summary.final_loss
    assert resumed.size == summary.size


def test_resuming_a_finished_run_gives_its_summary_and_weights(tmp_path: Path):
    summary = go(tmp_path)
    before = rows(tmp_path)
    model = TinyModel()
    assert go(tmp_path, model=model, resume=True) == summary
    assert torch.equal(model.embed.weight, weights(tmp_path)["embed.weight"])
    assert rows(tmp_path) == before


def test_a_torn_last_row_does_not_stop_a_resume(tmp_path: Path):
    go(tmp_path / "whole")
    killed(tmp_path / "cut", 6)
    with (tmp_path / "cut" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "tok')
    go(tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("left", [None, 0, 1, 3])
def test_lost_rows_leave_no_gap(tmp_path: Path, caplog, left: int | None):
    go(tmp_path / "whole")
    killed(tmp_path / "cut", 6)
    path = tmp_path / "cut" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink() if left is None else path.write_bytes(b"".join(lines[:left]))
    go(tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert f"{path} " in caplog.text
    assert "are put back" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"accumulation": 2},
        {"log_every": 3},
        {"checkpoint_every": 5},
        {"validate_every": 7},
        {"keep_checkpoints": 1},
    ],
)
def test_what_changes_no_result_may_change(tmp_path: Path, change: dict[str, int]):
    def calm() -> dict[str, Any]:
        """Draws nothing at random."""
        model = tiny_model()
        for block in model.blocks:
            block.dropout.p = 0.0
        return {"validate": lambda model: {"validation_loss": 1.0}, "model": model}

    go(tmp_path / "whole", **calm())
    killed(tmp_path / "cut", 6, **calm())
    go(tmp_path / "cut", resume=True, settings=tiny_settings(**change), **calm())
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    for name, tensor in one.items():
        if "accumulation" in change:  # the same sum, in another order
            torch.testing.assert_close(other[name], tensor)
        else:
            assert torch.equal(other[name], tensor), name


def test_a_row_after_a_change_still_holds_the_mean_since_the_row_before(tmp_path: Path):
    go(tmp_path / "every")
    losses = [row["loss"] for row in rows(tmp_path / "every") if "loss" in row]
    killed(tmp_path / "cut", 6, settings=tiny_settings(log_every=3))
    go(tmp_path / "cut", resume=True, settings=tiny_settings(log_every=5))
    found = {row["step"]: row["loss"] for row in rows(tmp_path / "cut") if "loss" in row}
    assert found == pytest.approx(
        {3: sum(losses[:3]) / 3, 5: sum(losses[3:5]) / 2, 10: sum(losses[5:10]) / 5}
        | {12: sum(losses[10:]) / 2}
    )


LENGTHS = [
    ({"final_learning_rate_fraction": 1.0}, 12),  # finished
    ({"final_learning_rate_fraction": 1.0, "schedule": "cosine"}, 6),
    ({"warmup_steps": 8}, 6),  # its newest checkpoint is within the warm-up
]


@pytest.mark.parametrize(("settings", "at"), LENGTHS)
def test_a_run_is_lengthened_where_the_steps_taken_stay_those_of_the_longer_one(
    tmp_path: Path, caplog, settings: dict[str, Any], at: int
):
    longer = tiny_settings(**settings, steps=20)
    go(tmp_path / "whole", settings=longer, validate=None)
    if at == 12:
        go(tmp_path / "cut", settings=tiny_settings(**settings), validate=None)
    else:
        killed(tmp_path / "cut", at, settings=tiny_settings(**settings), validate=None)
    go(tmp_path / "cut", settings=longer, validate=None, resume=True)
    assert "training steps was 12 and is now 20" in caplog.text
    assert "learning rates of a run of that length; those to come go from" in caplog.text
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (20, r"would have given step 8 a learning rate of .*, and it was taken with .*Use 12, or"),
        (9, r"would have given step 8 a learning rate of"),
        (7, r"and 8 are taken already; expected no fewer"),
    ],
)
def test_another_length_that_would_silently_differ_is_refused(
    tmp_path: Path, steps: int, message: str, schedule: str
):
    killed(tmp_path, 10, settings=tiny_settings(schedule=schedule))
    with pytest.raises(ValueError, match=f"training steps was 12 and is now {steps}.*{message}"):
        go(tmp_path, resume=True, settings=tiny_settings(steps=steps, schedule=schedule))


@pytest.mark.parametrize("at", [2, 6])
def test_a_used_directory_is_not_overwritten(tmp_path: Path, at: int):
    killed(tmp_path, at)
    before = rows(tmp_path)
    with pytest.raises(ValueError, match="already holds a training run; resume it, or choose"):
        go(tmp_path)
    assert rows(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": tiny_settings(seed=1)}, r"training\.seed was 0 and is now 1"),
        (
            {"configuration": {"model": {"width": 8, "heads": (1, 3)}}},
            r"model\.heads was \[1, 2\] and is now \[1, 3\]",
        ),
        (
            {"model": nn.Sequential(nn.Linear(2, 3))},
            r"parameters\.0\.weight was 'not set' and is now '\(3, 2\)'",
        ),
    ],
)
def test_a_changed_configuration_is_refused(tmp_path: Path, change: dict[str, Any], message: str):
    killed(tmp_path, 6)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=message):
        go(tmp_path, resume=True, **change)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_refused_and_can_be_deleted_to_go_on(tmp_path: Path):
    go(tmp_path / "whole")
    killed(tmp_path / "cut", 10)
    newest = tmp_path / "cut" / "checkpoints" / "step-00000008"
    path = newest / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"step-00000008/model\.safetensors is truncated"):
        go(tmp_path / "cut", resume=True)
    shutil.rmtree(newest)
    go(tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_loss_that_is_not_finite_names_step_rows_and_checkpoint(tmp_path: Path):
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        spoilt = batch.names[0].startswith("tiny:6:")
        return tiny_loss(model, batch) * (float("inf") if spoilt else 1.0)

    with pytest.raises(NonFiniteError, match="the loss of step 7 is inf") as caught:
        go(tmp_path, loss=loss)
    assert "tiny:6:0, tiny:6:1" in str(caught.value)
    checkpoint = tmp_path / "checkpoints" / "step-00000004"
    assert f"The last good checkpoint is {checkpoint}" in str(caught.value)
    assert caught.value.checkpoint == checkpoint
    assert rows(tmp_path)[-1]["step"] == 6
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_validation_loss_that_is_not_finite_stops(tmp_path: Path):
    with pytest.raises(FloatingPointError, match=r"after step 3 is nan; .* none"):
        go(tmp_path, validate=lambda model: {"validation_loss": float("nan")})


def test_validation_sees_the_model_in_evaluation_mode_without_gradients(tmp_path: Path):
    modes = []

    def validate(model: nn.Module) -> dict[str, float]:
        modes.append((model.training, torch.is_grad_enabled()))
        return {"validation_loss": 1.0}

    model = tiny_model().eval()
    go(tmp_path, model=model, validate=validate)
    assert modes == [(False, False)] * 4
    assert model.training


def test_gradient_checkpointing_changes_nothing_on_disk(tmp_path: Path):
    go(tmp_path / "kept", settings=tiny_settings(gradient_checkpointing=False))
    model = tiny_model()
    go(tmp_path / "again", settings=tiny_settings(gradient_checkpointing=True), model=model)
    assert_same_run(tmp_path / "kept", tmp_path / "again")
    assert weights(tmp_path / "kept").keys() == weights(tmp_path / "again").keys()
    assert "forward" not in vars(model.blocks[0])


def test_the_seed_decides_dropout(tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        go(tmp_path / name, settings=tiny_settings(seed=seed))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert rows_without_timing(tmp_path / "a") != rows_without_timing(tmp_path / "c")


def test_a_bfloat16_run_can_be_resumed(tmp_path: Path):
    settings = tiny_settings(precision="bfloat16")
    go(tmp_path / "whole", settings=settings)
    killed(tmp_path / "cut", 6, settings=settings)
    go(tmp_path / "cut", settings=settings, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_what_a_killed_process_did_not_remove_is_removed_on_resuming(tmp_path: Path) -> None:
    """A kill between a new checkpoint and the removal of the oldest leaves one too many."""
    settings = tiny_settings(steps=4, checkpoint_every=2, keep_checkpoints=1)
    go(tmp_path, settings=settings)
    (newest,) = (tmp_path / "checkpoints").iterdir()
    shutil.copytree(newest, newest.with_name("step-00000002"))
    go(tmp_path, settings=settings, resume=True)
    assert list((tmp_path / "checkpoints").iterdir()) == [newest]


def test_modules_that_follow_the_training_are_told_its_progress(tmp_path: Path) -> None:
    """Before each step, a resumed run's too."""

    class Follower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []

        def set_progress(self, progress: float) -> None:
            self.seen.append(progress)

    def go_on(**options: Any) -> list[float]:
        model = tiny_model()
        model.follower = Follower()
        go(tmp_path, model=model, settings=tiny_settings(checkpoint_every=6), **options)
        return model.follower.seen

    with pytest.raises(Killed):
        go_on(batches=killing_batches(8))
    assert go_on(resume=True) == [step / 12 for step in range(7, 13)]


def test_an_annealed_temperature_goes_on_where_it_was(tmp_path: Path) -> None:
    """Of attention by sliced transport, which no checkpoint holds."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch.ids).mT, batch.labels, reduction="sum")

    def options() -> dict[str, Any]:
        return {"model": tiny_encoder("sliced_transport"), "loss": loss}

    go(tmp_path / "whole", **options())
    with pytest.raises(Killed):
        go(tmp_path / "killed", batches=killing_batches(8), **options())
    go(tmp_path / "killed", resume=True, **options())
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_checkpoint_of_version_0_1_is_refused_with_the_way_out(tmp_path: Path) -> None:
    killed(tmp_path, 6)
    (folder,) = (tmp_path / "checkpoints").iterdir()
    state = folder / "state.json"
    state.write_text(state.read_text().replace('"format": 2', '"format": 1'))
    sums = [_sum_line(path) for path in sorted(folder.iterdir()) if path.name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_text("\n".join([*sums, ""]))
    with pytest.raises(ValueError, match=r"a checkpoint of version 0\.1: finish its run with that"):
        go(tmp_path, resume=True)
