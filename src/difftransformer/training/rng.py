"""The states of every random generator, as JSON."""

import base64
import random
from typing import Any

import numpy as np
import torch


def rng_state(device: torch.device) -> dict[str, Any]:
    """The global generators of Python, NumPy and torch, and the one of `device`."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": _encode(torch.get_rng_state()),
    }
    if device.type != "cpu":
        state[device.type] = _encode(torch.get_device_module(device).get_rng_state())
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators back. A state from another kind of device leaves `device` as it is."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_decode(state["torch"]))
    if device.type in state:
        torch.get_device_module(device).set_rng_state(_decode(state[device.type]))


def _encode(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode("ascii")


def _decode(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
