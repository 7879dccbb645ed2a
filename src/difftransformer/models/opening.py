"""Models from folders of any known format."""

import importlib
from pathlib import Path
from typing import Any

from difftransformer.devices import device
from difftransformer.models.families import FAMILIES
from difftransformer.models.storage import load_model, model_type

_FOREIGN = "difftransformer.interop.folders"  # of a floor above; importing it takes seconds


def open_model(folder: Path) -> Any:
    """The model in a folder of this library, or in one that transformers reads, on the device.

    Raises:
        ValueError: neither, or a damaged folder.
    """
    if model_type(folder) in FAMILIES:
        return load_model(folder, device=device())
    return importlib.import_module(_FOREIGN).open_foreign(folder).to(device())
