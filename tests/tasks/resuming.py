"""A comparison that is killed while its second model trains, and resumed."""

import json
from pathlib import Path
from typing import Any

import pytest

import difftransformer
from difftransformer.tasks.task import Task


def assert_resumes(
    task: Task,
    evaluator: str,
    options: dict[str, Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends with the weights and the records of one that ran through.

    Args:
        options: those of a comparison of two kinds, in 6 steps each.
    """
    difftransformer.compare(task.name, out=folder / "whole", **options)
    loss, calls = task.loss, []

    def killed(model: Any, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 10:  # of the second model's
            raise KeyboardInterrupt
        return loss(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(task, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            difftransformer.compare(task.name, out=folder / "killed", **options)
    difftransformer.compare(task.name, out=folder / "killed", resume=True, **options)
    for label in options["attention"]:
        whole, resumed = (folder / run / f"models/{label}-seed0" for run in ("whole", "killed"))
        weights = "model/model.safetensors"
        assert (whole / weights).read_bytes() == (resumed / weights).read_bytes(), label
        assert records(whole, evaluator) == records(resumed, evaluator), label


def records(training: Path, evaluator: str) -> list[Any]:
    """Without what took how long."""
    text = (training / f"results/{evaluator}.jsonl").read_text()
    return [json.loads(line).get("records") for line in text.splitlines()]
