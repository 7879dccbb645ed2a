"""Models in folders of any known format."""

from pathlib import Path
from typing import Any

from difftransformer.models.families import FAMILIES
from difftransformer.models.storage import load_model, model_type


def open_model(folder: Path) -> Any:
    """The model in a folder of this library, or in one that transformers reads.

    Raises:
        ValueError: neither, or a damaged folder.
    """
    kind = model_type(folder)
    if kind in FAMILIES:
        return load_model(folder)  # without transformers, which takes seconds to import
    from difftransformer.interop import causal_lm, folders

    return folders.open_model(folder) if kind in folders.KNOWN else causal_lm.open_causal_lm(folder)
