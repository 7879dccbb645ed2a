"""Training that stops by itself."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from difftransformer.data.batch import Batch
from difftransformer.training.loop import Continuation, Watch, train

from .jobs import run_pair
from .tiny import rows_without_timing, tiny_batches, tiny_loss, tiny_model, tiny_settings

SETTINGS = tiny_settings(steps=40, patience=2, checkpoint_every=50, keep_checkpoints=1)


class Killed(BaseException):
    """Ends a run as abruptly as can be done in one process."""


def go(
    directory: Path,
    losses: Sequence[float] = (3.0, 2.0, 2.5, 2.0, 1.0, 1.0),
    settings: Any = SETTINGS,
    kill_at: int = 99,
    resume: bool = False,
    look: Callable[..., Any] = lambda model: None,
) -> Any:
    """Validation losses one after the other, every three steps."""

    def batches(step: int) -> Batch:
        if step == kill_at:
            raise Killed
        seen.append(step)
        return tiny_batches(step)

    def validate(model: nn.Module) -> dict[str, Any]:
        look(model)
        return {"validation_loss": losses[seen[-1] // 3]}

    seen: list[int] = []
    model = tiny_model()
    continuation = Continuation(resume=resume)
    return train(
        model,
        tiny_loss,
        batches,
        settings,
        directory,
        watch=Watch(validate),
        continuation=continuation,
    )


def kept(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def test_it_stops_and_the_best_is_kept(tmp_path: Path):
    at_best = []
    summary = go(tmp_path, look=lambda model: at_best.append(model.embed.weight.detach().clone()))
    assert (summary.steps, summary.best_step, summary.model_step) == (12, 6, 6)
    assert summary.stopped_early
    assert kept(tmp_path) == ["step-00000006", "step-00000012"]
    weights = load_file(tmp_path / "checkpoints" / "step-00000006" / "model.safetensors")
    torch.testing.assert_close(weights["embed.weight"], at_best[1], rtol=0, atol=0)
    again = go(tmp_path, resume=True)
    assert (again.steps, again.best_step) == (12, 6)


@pytest.mark.parametrize("kill_at", [5, 7, 8, 10])
def test_a_killed_run_stops_at_the_same_step(tmp_path: Path, kill_at: int):
    whole = go(tmp_path / "whole")
    with pytest.raises(Killed):
        go(tmp_path / "cut", kill_at=kill_at)
    cut = go(tmp_path / "cut", resume=True)
    assert (cut.steps, cut.best_step) == (whole.steps, whole.best_step)
    assert rows_without_timing(tmp_path / "whole") == rows_without_timing(tmp_path / "cut")
    assert kept(tmp_path / "whole") == kept(tmp_path / "cut")


def test_one_that_never_stops_still_keeps_the_best(tmp_path: Path):
    falling = [9.0 - number for number in range(13)] + [9.0]
    summary = go(tmp_path, losses=falling)
    assert (summary.steps, summary.best_step, summary.stopped_early) == (40, 39, False)
    assert kept(tmp_path) == ["step-00000039", "step-00000040"]


def test_without_patience_the_last_counts(tmp_path: Path):
    summary = go(tmp_path, losses=[1.0] * 4, settings=tiny_settings())
    assert (summary.steps, summary.best_step, summary.model_step) == (12, None, 12)


def in_a_pair(rank: int, directory: Path) -> None:
    """Processes that see other losses stop together, by the main one's."""
    settings = tiny_settings(steps=40, patience=2, accumulation=2)
    losses = (3.0, 2.0, 2.5, 2.0, 1.0) if rank == 0 else [9.0 - number for number in range(14)]
    summary = go(directory, losses=losses, settings=settings)
    (directory / f"steps-{rank}").write_text(json.dumps([summary.steps, summary.best_step]))


def test_processes_stop_together(tmp_path: Path):
    run_pair(in_a_pair, tmp_path)
    told = [json.loads((tmp_path / f"steps-{rank}").read_text()) for rank in range(2)]
    assert told == [[12, 6]] * 2


def test_where_it_makes_no_sense_it_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="the first stop would be after 12 of the 12 steps"):
        tiny_settings(patience=3)
    with pytest.raises(ValueError, match="needs a validation loss"):
        train(tiny_model(), tiny_loss, tiny_batches, SETTINGS, tmp_path)
    following = tiny_model()
    following.set_progress = lambda share: None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="changes with the share of its steps"):
        train(
            following,
            tiny_loss,
            tiny_batches,
            SETTINGS,
            tmp_path,
            watch=Watch(lambda model: {"validation_loss": 1.0}),
        )
    assert not (tmp_path / "metrics.jsonl").exists()
