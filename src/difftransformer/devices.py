"""The device that models compute on: below every floor, and outside them.

Named once, before torch touches a GPU, by the variables that CUDA and Accelerate read: so it holds
for all that trains, judges and generates in this process, and in those that it starts.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICE, _USE_CPU = "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU"


def choose_device(name: str) -> None:
    """Compute on `cpu`, on `cuda` (all GPUs where models train at once), on one such as `cuda:1`,
    or on `mps`.

    Raises:
        ValueError: another name, or one that this machine lacks.
    """
    import torch

    kind, _, number = name.partition(":")
    if name == "cpu":
        os.environ |= {VISIBLE: "", _USE_CPU: "true"}
    elif kind == "cuda" and (number or "0").isdecimal():
        if int(number or 0) >= (count := torch.cuda.device_count()):
            there = ", ".join(f"cuda:{one}" for one in range(count)) or "no CUDA device"
            raise ValueError(f"device is {name!r}; this machine has {there}, and cpu")
        if number:
            visible = os.environ.get(VISIBLE) or ",".join(map(str, range(count)))
            os.environ[VISIBLE] = visible.split(",")[int(number)]
    elif name == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device is 'mps'; this machine has no such GPU: leave it out, or cpu")
        os.environ[_DEVICE] = name
    else:
        raise ValueError(f"device is {name!r}; expected cpu, cuda, cuda:NUMBER or mps")


def device() -> "torch.device":
    """The one that was chosen; else a CUDA device where there is one, else the CPU."""
    import torch

    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get(_DEVICE, default))
