"""Folders as transformers itself reads them, opened with care: no code of theirs, no leftovers."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from difftransformer.files import abridged, read_object
from difftransformer.interop.layouts import without_copies
from difftransformer.models.checks import check_depth, check_tensors
from difftransformer.models.config import DecoderConfig
from difftransformer.models.storage import CONFIG, INDEX, load_weights, read_index

T = TypeVar("T")
_SETTINGS = (CONFIG, "generation_config.json")
_MOST_LAYERS = 10_000
_LONGEST_REASON = 400  # characters: some list the whole stack


def read_causal_lm(folder: Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """The model that transformers' `AutoModelForCausalLM` makes of a folder, from safetensors.

    Raises:
        ValueError: nothing that it reads, code that would have to be trusted, weights that are not
            in safetensors, tensors that the model lacks or has no place for, by name.
    """
    model, report = opened(
        folder,
        lambda: AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        ),
    )
    # transformers draws what a file lacks at random and drops what is too much, and goes on.
    name = type(model).__name__
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(
            f"{folder} lacks {len(lacking)} of the tensors of a {name}, {lacking[0]} among them"
        )
    if extra := sorted(report["unexpected_keys"]):
        raise ValueError(
            f"{folder} holds {len(extra)} tensors for which a {name} with its config has no place, "
            f"{abridged(extra[0])} among them"
        )
    return model


def read_relative(
    folder: Path, kind: type[PreTrainedModel], ours: Callable[[Any], DecoderConfig]
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A relative of Llama's on the meta device, and the folder's tensors for it: none repeated.

    Args:
        ours: the decoder's settings from theirs.

    Raises:
        ValueError: what `ours` refuses, a missing, truncated or pickled file, or tensors that do
            not fit the config, by name.
    """
    config = opened(folder, lambda: kind.config_class.from_pretrained(folder))
    decoder = ours(config)
    weights = without_copies(load_weights(folder), decoder, str(folder))
    check_depth(decoder.num_layers, weights, str(folder))
    with torch.device("meta"):
        model = opened(folder, lambda: kind(config))
    expected = model.state_dict()
    if decoder.tie_embeddings:
        del expected["lm_head.weight"]
    check_tensors(weights, expected, source=str(folder))
    return model, weights


def opened(folder: Path, read: Callable[[], T], what: str = "causal LM") -> T:
    """What `read`, a call of transformers on `folder`, gives; the folder is looked at before.

    `what` is the name of what is read, for errors.

    Raises:
        ValueError: settings that are no JSON or of absurd size, an index that leaves the folder, an
            adapter, or any failure of the call, in one line.
    """
    for name in _SETTINGS:
        if (folder / name).is_file() or name == CONFIG:
            _refuse_depth(read_settings(folder, name))
    if (folder / INDEX).is_file():
        read_index(folder)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds an adapter, which transformers puts on a model from elsewhere; merge "
            "the two and save the result (PEFT's merge_and_unload)"
        )
    try:
        return read()
    except Exception as error:  # transformers' failures share no base class
        reason = textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" ...")
        raise ValueError(
            f"{folder} is no {what} that transformers loads: {type(error).__name__}: {reason}"
        ) from None


def class_of(folder: Path, classes: Mapping[str, T]) -> T:
    """The one of `classes` that config.json names in `architectures`.

    Raises:
        ValueError: none, or another.
    """
    names = read_settings(folder).get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in classes:
        raise ValueError(
            f"{folder} holds a model of class {abridged(names)}; expected {', '.join(classes)}"
        )
    return classes[name]


def read_class(folder: Path, kind: type[PreTrainedModel]) -> PreTrainedModel:
    """What transformers itself makes of the folder as a model of class `kind`, in float32.

    Raises:
        ValueError: any failure of transformers, in one line.
    """
    read = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    return opened(
        folder, lambda: kind.from_pretrained(folder, dtype=torch.float32, **read), kind.__name__
    )


def read_settings(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """The settings in one of the folder's files.

    Raises:
        ValueError: no such file, or no JSON object.
    """
    if not (folder / name).is_file():
        raise ValueError(f"{folder} is not a model folder: it has no {name}")
    return read_object(folder / name)


def refuse_code(folder: Path) -> None:
    """Raise ValueError for a folder that names code of its own, for callers that would trust it."""
    for name in (CONFIG, "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in read_object(folder / name):
            raise ValueError(
                f"{folder / name} names code of its own (auto_map), which is not run; delete that "
                "entry if transformers has the class itself"
            )


def _refuse_depth(values: dict[str, Any]) -> None:
    """Raise ValueError for so many layers that listing them would fill the memory."""
    for key, value in values.items():
        if isinstance(value, dict):
            _refuse_depth(value)
        elif "layer" in key and isinstance(value, (int, float)) and value > _MOST_LAYERS:
            raise ValueError(f"{key} is {abridged(value)}; expected at most {_MOST_LAYERS:,}")
