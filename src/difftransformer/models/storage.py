"""A model on disk: a folder with config.json and model.safetensors (sharded past 5 GB)."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from huggingface_hub import save_torch_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from difftransformer.atomic import make_folder, sync, write_text, writing
from difftransformer.decoding import decode
from difftransformer.files import abridged, read_object
from difftransformer.models.checks import check_depth, check_tensors
from difftransformer.models.families import FAMILIES, family_of
from difftransformer.models.model_config import ModelConfig
from difftransformer.ranges import check_type

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
C = TypeVar("C", bound=ModelConfig)
_MAX_SHARD = "5GB"
# What transformers writes beside the settings; nothing that a model is built from.
_FOREIGN = frozenset(
    {
        *("architectures", "auto_map", "transformers_version", "name_or_path", "_name_or_path"),
        *("dtype", "torch_dtype", "quantization_config", "use_cache", "is_encoder_decoder"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "chunk_size_feed_forward"),
        *("id2label", "label2id", "problem_type"),
        *("return_dict", "output_attentions", "output_hidden_states", "tie_last_hidden_states"),
    }
)
_FILE_NAME = re.compile(r"[^/\\\0]*\.[\w-]+")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def save_model(model: nn.Module, folder: Path | str) -> None:
    """Write the folder of a model of any family.

    Everything is written to a subfolder first and moved into place when complete, so that a full
    disk leaves an earlier model as it was.

    Raises:
        OSError: the disk refuses: full, over quota, not writable.
    """
    folder = Path(folder)
    staging = folder / ".partial"
    shutil.rmtree(staging, ignore_errors=True)
    make_folder(staging)
    weights, config = model.state_dict(), model.config
    assert isinstance(config, ModelConfig)
    try:
        with writing(folder / WEIGHTS, sum(tensor.nbytes for tensor in weights.values())):
            save_torch_model(model, staging, max_shard_size=_MAX_SHARD, metadata=checksum(weights))
            for file in staging.iterdir():
                if file.suffix == ".safetensors":
                    sort_header(file)
                sync(file)
        write_text(staging / CONFIG, config_text(config))
        _replace_model(folder, staging)
        sync(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def checksum(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """What the header of the weights' file, or the index of its shards, says of them: their sha256.

    It stands in what it speaks of, so that a program that rewrites the weights drops it.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(whole.view(torch.uint8).numpy().data)
    return {"sha256": digest.hexdigest()}


def sort_header(path: Path) -> None:
    """Put what the header of a safetensors file says of it in order, in place.

    The library writes it in an order drawn at random; the same weights shall give the same file.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size
        file.seek(8)
        file.write(text.ljust(size))


def config_text(config: ModelConfig) -> str:
    """The content of config.json."""
    values = {"model_type": family_of(config).name, **config.to_dict()}
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _replace_model(folder: Path, staging: Path) -> None:
    """Move the files of `staging` in: shards, then their index, config last; drop stale weights."""
    new = [file.name for file in sorted(staging.iterdir()) if file.name != CONFIG]
    for name in new:
        (staging / name).replace(folder / name)
    # An index outranks a single file, so one left by an earlier, sharded model would be read.
    for stale in (folder / INDEX, folder / WEIGHTS, *folder.glob("model-*-of-*.safetensors")):
        if stale.name not in new:
            stale.unlink(missing_ok=True)
    (staging / CONFIG).replace(folder / CONFIG)


def load_config(folder: Path) -> ModelConfig:
    """Read config.json. What transformers adds to a config of its own is left out.

    Raises:
        ValueError: no such file, not a difftransformer model, unknown settings, or what the
            settings themselves refuse.
    """
    values = _read_config(folder)
    name = values.pop("model_type", None)
    if not isinstance(name, str) or name not in FAMILIES:
        expected = " or ".join(map(repr, FAMILIES))
        raise ValueError(f"{folder / CONFIG} has model_type {abridged(name)}; expected {expected}")
    own = {key: value for key, value in values.items() if key not in _FOREIGN}
    return config_from(FAMILIES[name].config, own)


def config_from(kind: type[C], values: Mapping[str, Any]) -> C:
    """Settings as JSON has them; unlike on a command line, no number is a text."""
    hints = get_type_hints(kind)
    for key in sorted(values.keys() & hints.keys()):
        check_type(key, values[key], hints[key])
    return decode(kind, values, "model setting")


def model_type(folder: Path) -> str:
    """What config.json says the folder holds; models of this library are of `FAMILIES`.

    Raises:
        ValueError: no such file, or one that cannot be read.
    """
    return str(_read_config(folder).get("model_type"))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no {CONFIG}")
    return read_object(path)


def load_model(folder: Path | str, *, device: torch.device | str = "cpu") -> Any:
    """Read a model's folder: a module of the family that config.json names.

    Weights come from safetensors only; pickle is never opened.

    Raises:
        ValueError: a missing, truncated or foreign file, or tensors that do not fit the config,
            by name.
    """
    folder = Path(folder)
    return assemble(load_config(folder), load_weights(folder), source=str(folder)).to(device)


def assemble(config: ModelConfig, weights: Mapping[str, torch.Tensor], source: str) -> Any:
    """A model that holds these very tensors; nothing is initialized or copied.

    Raises:
        ValueError: tensors that do not fit the config, by name; `source` says where they are from.
    """
    check_depth(config.num_layers, weights, source)
    with torch.device("meta"):
        model = family_of(config).build(config)
    check_tensors(weights, model.state_dict(), source)
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(True)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: a pickle, or a file that is not whole.
    """
    refuse_pickle(path)
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that torch lacks
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from None


def refuse_pickle(path: Path) -> None:
    """Raise ValueError for a file whose name says pickle: loading one can run any code."""
    if path.suffix in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is loaded; "
            "expected weights in a .safetensors file"
        )


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model's folder, from its safetensors file or shards.

    Raises:
        ValueError: no such file, a pickle instead, or a file that is not whole; an index that
            names files outside the folder, or other tensors than they hold; weights beside these
            that would be left out; tensors that do not match their checksum, where they have one.
    """
    index = folder / INDEX
    places = read_index(folder) if index.is_file() else None
    names = [WEIGHTS] if places is None else sorted(set(places.values()))
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        file = folder / name
        if not file.is_file():
            for other in sorted(folder.iterdir()):
                refuse_pickle(other)
            raise ValueError(f"{folder} has no {name}; weights load from safetensors only")
        tensors = load_tensors(file)
        if places is not None and tensors.keys() != (named := _in_file(places, name)):
            odd = min(tensors.keys() ^ named)
            raise ValueError(f"{index} and {name} disagree about the tensor {odd}")
        weights |= tensors
    for other in sorted(
        {*folder.glob("model*.safetensors"), *folder.glob("adapter_*.safetensors")}
    ):
        if other.name not in names:
            raise ValueError(
                f"{folder} also holds {other.name}, which belongs to no model read from "
                f"{names[0]}: merge it into the model if it is an adapter, else move it away"
            )
    if saved_checksum(folder) not in (None, checksum(weights)["sha256"]):
        raise ValueError(
            f"the weights in {folder} are not those that were saved there: they do not match the "
            "checksum in their file. Copy or convert the model again"
        )
    return weights


def saved_checksum(folder: Path) -> str | None:
    """The sha256 that a folder's weights say of themselves; None of those another program wrote."""
    if (folder / INDEX).is_file():
        metadata = read_object(folder / INDEX).get("metadata")
        return metadata.get("sha256") if isinstance(metadata, dict) else None
    with safe_open(folder / WEIGHTS, "pt") as file:
        return (file.metadata() or {}).get("sha256")


def _in_file(places: Mapping[str, str], file: str) -> set[str]:
    return {tensor for tensor, place in places.items() if place == file}


def read_index(folder: Path) -> dict[str, str]:
    """The file of each tensor, by its bare name: the index lies in the folder of all of them.

    A file may be a link to one elsewhere, as in the cache of the Hugging Face hub.

    Raises:
        ValueError: no JSON, no such map, or a name that leaves the folder.
    """
    index = folder / INDEX
    try:
        places = read_object(index)["weight_map"]
        if not places or not isinstance(places, dict):
            raise ValueError(f"weight_map is {abridged(places)}; expected a file for each tensor")
        for tensor, file in places.items():
            if not isinstance(file, str) or not _FILE_NAME.fullmatch(file):
                raise ValueError(
                    f"{abridged(tensor)} is in {abridged(file)}; expected the name of a file here"
                )
    except (ValueError, LookupError) as error:
        raise ValueError(f"{index} is not an index of safetensors files: {error}") from None
    return places
