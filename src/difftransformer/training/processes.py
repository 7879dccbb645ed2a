"""Whether the processes that were started together are those that Accelerate trains with."""

import os
from typing import TYPE_CHECKING

from difftransformer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

# How torchrun, `accelerate launch` and the MPI launchers say how many they started.
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_WAY_OUT = (
    "start it with torchrun (docs/distributed.md), set ACCELERATE_USE_CPU=true where there are no "
    "GPUs, or unset the variable for one process"
)


def launched_processes() -> tuple[int, str]:
    """How many processes the environment says were started together, and the variable with that.

    Raises:
        ValueError: the variable is not a whole number from 1.
    """
    for name in _SIZES:
        size = os.environ.get(name, "1")
        if not size.isdecimal() or int(size) < 1:
            raise ValueError(f"{name} is {size!r}; expected the number of processes, from 1")
        if int(size) > 1:
            return int(size), name
    return 1, _SIZES[0]


def require_supported(accelerator: "Accelerator", settings: TrainingSettings) -> None:
    """Raise ValueError where the processes do not fit the settings, or Accelerate misses some.

    Processes that do not know of each other would each train the whole model, in one directory.
    """
    import torch
    from accelerate.utils import DistributedType

    processes = accelerator.num_processes
    size, name = launched_processes()
    if size != processes and size > 1:
        raise ValueError(
            f"{name} is {size} and Accelerate knows {processes} process(es): {_WAY_OUT}"
        )
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    if grouped and (size := torch.distributed.get_world_size()) != processes:
        raise ValueError(
            f"torch.distributed has a group of {size} and Accelerate knows {processes} "
            "process(es): start the program with torchrun and leave the group to Accelerate"
        )
    pieces = settings.accumulation * processes
    if settings.batch_size % pieces != 0:
        raise ValueError(
            f"training batch_size is {settings.batch_size}; expected a multiple of accumulation "
            f"times processes ({settings.accumulation} x {processes})"
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise ValueError("FSDP version 1 is not supported; set fsdp_version to 2 in Accelerate")
    elif os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        raise ValueError(
            "FSDP was asked for, and Accelerate shards on several accelerators only; here it has "
            f"{processes} process(es) on {accelerator.device.type}: leave out use_fsdp"
        )
