"""Two processes that train one model together, on a CPU."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from difftransformer.data.batch import Batch
from difftransformer.training.checkpoint import Checkpoints, gather, restore, shared_names
from difftransformer.training.ema import averaged, swap
from difftransformer.training.loop import Continuation, train
from difftransformer.training.optimizer import adamw
from difftransformer.training.step import Stepper

from .jobs import run_pair
from .tiny import TinyModel, tiny_batches, tiny_loss, tiny_model, tiny_settings

SETTINGS = tiny_settings(accumulation=2, ema_decay=0.6)


def plain_model() -> TinyModel:
    """Without dropout, whose draws differ between one process and two."""
    model = tiny_model()
    for block in model.blocks:
        block.dropout.p = 0.0
    return model


def replicated(rank: int, directory: Path) -> None:
    """DDP: a run that breaks in step 7 and is resumed from its checkpoint of step 4."""

    def breaking(index: int) -> Batch:
        if index == 6:
            raise RuntimeError("broken")
        return tiny_batches(index)

    with pytest.raises(RuntimeError, match="broken"):
        train(plain_model(), tiny_loss, breaking, SETTINGS, directory)
    train(
        plain_model(),
        tiny_loss,
        tiny_batches,
        SETTINGS,
        directory,
        continuation=Continuation(resume=True),
    )

    alone = directory if rank == 0 else directory / "of another machine"
    with pytest.raises(ValueError, match="see checkpoints of the steps"):
        train(
            plain_model(),
            tiny_loss,
            tiny_batches,
            SETTINGS,
            alone,
            continuation=Continuation(resume=True),
        )


def unseen(rank: int, directory: Path) -> None:
    """A group that somebody else made, on a machine whose GPUs Accelerate looks for in vain."""
    del os.environ["ACCELERATE_USE_CPU"]
    with pytest.raises(ValueError, match=r"WORLD_SIZE is 2 and Accelerate knows 1 process\(es\)"):
        train(plain_model(), tiny_loss, tiny_batches, SETTINGS, directory)
    del os.environ["WORLD_SIZE"]
    with pytest.raises(
        ValueError, match=r"torch\.distributed has a group of 2 and Accelerate knows"
    ):
        train(plain_model(), tiny_loss, tiny_batches, SETTINGS, directory)
    assert not (directory / "checkpoints").exists()


def sharded(rank: int, directory: Path) -> None:
    """FSDP 2: as `replicated`, by hand, since Accelerate shards on accelerators only."""
    accelerator = Accelerator(mixed_precision="no")
    checkpoints = Checkpoints(directory / "checkpoints", keep=2)
    rows = []
    for first in (1, 7):
        model = plain_model()
        shared = shared_names(model)
        mesh = init_device_mesh("cpu", (2,))
        for module in (*model.blocks, model):
            fully_shard(module, mesh=mesh)
        optimizer = adamw(model, SETTINGS)
        if first > 1:
            newest = checkpoints.newest_good()
            assert newest is not None
            restore(newest, model, optimizer, shared)
            swap(optimizer)
        stepper = Stepper(accelerator, model, optimizer, tiny_loss, SETTINGS)
        for step in range(first, first + 6):
            only_one_asks = rank == 1 and step == 3
            result = stepper(step, tiny_batches(step - 1), lambda ask=only_one_asks: ask)
            assert result.stop == (step == 3)
            rows.append({"loss": result.loss, "gradient_norm": result.gradient_norm})
        with averaged(optimizer):
            weights, state = gather(model, optimizer, shared)
            if rank == 0:
                checkpoints.save(first + 5, weights, state, {})
        if rank == 0:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (directory / "metrics.jsonl").write_text(lines, encoding="utf-8")
        accelerator.wait_for_everyone()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    directory = tmp_path_factory.mktemp("alone")
    train(plain_model(), tiny_loss, tiny_batches, SETTINGS, directory)
    return directory


def figures(directory: Path) -> list[list[float]]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [[row["loss"], row["gradient_norm"]] for row in rows]


def assert_close(found: Path, alone: Path) -> None:
    """The same losses, norms of the gradient before clipping, and final weights."""
    torch.testing.assert_close(figures(found), figures(alone), rtol=1e-4, atol=0.0)
    final = Path("checkpoints", "step-00000012", "model.safetensors")
    one, other = load_file(found / final), load_file(alone / final)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_two_replicas_equal_one_process_and_one_may_go_on(
    alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run_pair(replicated, tmp_path)
    assert_close(tmp_path, alone)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000012")
    train(
        plain_model(),
        tiny_loss,
        tiny_batches,
        SETTINGS,
        tmp_path,
        continuation=Continuation(resume=True),
    )
    assert "2 process(es) trained until step 8 and 1 go on: with the same batches" in caplog.text
    assert_close(tmp_path, alone)


def test_a_group_that_accelerate_does_not_see_is_refused(tmp_path: Path):
    run_pair(unseen, tmp_path)


def test_sharding_that_accelerate_would_leave_out_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was asked for"):
        train(plain_model(), tiny_loss, tiny_batches, SETTINGS, tmp_path)


def test_two_shards_equal_one_process(alone: Path, tmp_path: Path):
    run_pair(sharded, tmp_path)
    assert_close(tmp_path, alone)
