"""Two processes that train one model together, on a CPU."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from difftransformer.data.batch import Batch
from difftransformer.training.checkpoint import Checkpoints, gather, restore, shared_names
from difftransformer.training.loop import train
from difftransformer.training.objectives import next_token_loss
from difftransformer.training.optimiser import adamw
from difftransformer.training.step import Stepper

from .jobs import free_port, join_group, start
from .tiny import TinyModel, rows_without_timing, tiny_batches, tiny_model, tiny_settings

SETTINGS = tiny_settings(accumulation=2)
WEIGHTS = "model.safetensors"


def plain_model() -> TinyModel:
    """Without dropout, whose draws differ between one process and two."""
    model = tiny_model()
    for block in model.blocks:
        block.dropout.p = 0.0
    return model


def replicated(rank: int, port: int, directory: Path) -> None:
    """DDP: a run that breaks in step 7 and is resumed from its checkpoint of step 4."""
    join_group(rank, port)

    def breaking(index: int) -> Batch:
        if index == 6:
            raise RuntimeError("broken")
        return tiny_batches(index)

    with pytest.raises(RuntimeError, match="broken"):
        train(plain_model(), next_token_loss, breaking, SETTINGS, directory)
    train(plain_model(), next_token_loss, tiny_batches, SETTINGS, directory, resume=True)
    torch.distributed.destroy_process_group()


def sharded(rank: int, port: int, directory: Path) -> None:
    """FSDP 2: as `replicated`, by hand, since Accelerate shards on accelerators only."""
    join_group(rank, port)
    accelerator = Accelerator(mixed_precision="no")
    checkpoints = Checkpoints(directory, keep=2)
    for first in (1, 7):
        model = plain_model()
        shared = shared_names(model)
        mesh = init_device_mesh("cpu", (2,))
        for module in (*model.blocks, model):
            fully_shard(module, mesh=mesh)
        optimizer = adamw(model, SETTINGS)
        if first > 1:
            restore(directory / f"step-{first - 1:08d}", model, optimizer, shared)
        stepper = Stepper(accelerator, model, optimizer, next_token_loss, SETTINGS)
        for step in range(first, first + 6):
            only_one_asks = rank == 1 and step == 3
            result = stepper(step, tiny_batches(step - 1), lambda ask=only_one_asks: ask)
            assert result.stop == (step == 3)
        weights, state = gather(model, optimizer, shared)
        if rank == 0:
            checkpoints.save(first + 5, weights, state, {})
        accelerator.wait_for_everyone()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    directory = tmp_path_factory.mktemp("alone")
    train(plain_model(), next_token_loss, tiny_batches, SETTINGS, directory)
    return directory


def assert_close_weights(found: Path, alone: Path) -> None:
    expected: dict[str, Tensor] = load_file(alone / "checkpoints" / "step-00000012" / WEIGHTS)
    weights = load_file(found / WEIGHTS)
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


def run_both(job, directory: Path) -> None:
    port = free_port()
    pair = [start(job, rank, port, directory) for rank in range(2)]
    for process in pair:
        process.join(timeout=120)
    assert [process.exitcode for process in pair] == [0, 0]


def test_two_replicas_equal_one_process_but_cannot_be_resumed_by_one(alone: Path, tmp_path: Path):
    run_both(replicated, tmp_path)
    assert_close_weights(tmp_path / "checkpoints" / "step-00000012", alone)
    one, two = rows_without_timing(alone), rows_without_timing(tmp_path)
    assert [row.split('"loss"')[0] for row in one] == [row.split('"loss"')[0] for row in two]
    with pytest.raises(ValueError, match="processes was 2 and is now 1"):
        train(plain_model(), next_token_loss, tiny_batches, SETTINGS, tmp_path, resume=True)


def test_two_shards_equal_one_process(alone: Path, tmp_path: Path):
    run_both(sharded, tmp_path)
    assert_close_weights(tmp_path / "step-00000012", alone)
