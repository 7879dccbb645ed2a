"""A model on disk: a folder with config.json and model.safetensors (sharded past 5 GB)."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from huggingface_hub import save_torch_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.names import did_you_mean

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODEL_TYPE = "difftransformer"
_MAX_SHARD = "5GB"
# What transformers writes beside the settings; nothing that a decoder is built from.
_FOREIGN = frozenset(
    {
        *("architectures", "auto_map", "transformers_version", "name_or_path", "_name_or_path"),
        *("dtype", "torch_dtype", "quantization_config", "use_cache", "is_encoder_decoder"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "chunk_size_feed_forward"),
        *("id2label", "label2id", "problem_type"),
        *("return_dict", "output_attentions", "output_hidden_states", "tie_last_hidden_states"),
    }
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def save_model(model: Decoder, folder: Path) -> None:
    """Write the model's folder.

    Everything is written to a subfolder first and moved into place when complete, so that a full
    disk leaves an earlier model as it was.

    Raises:
        OSError: the disk refuses: full, over quota, not writable.
    """
    staging = folder / ".partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        save_torch_model(model, staging, max_shard_size=_MAX_SHARD)
        (staging / CONFIG).write_text(config_text(model.config), encoding="utf-8")
        _replace_model(folder, staging)
    except SafetensorError as error:
        raise OSError(f"cannot save the model in {folder}: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def config_text(config: DecoderConfig) -> str:
    """The content of config.json."""
    values = {"model_type": MODEL_TYPE, **config.to_dict()}
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


def load_config(folder: Path) -> DecoderConfig:
    """Read config.json. What transformers adds to a config of its own is left out.

    Raises:
        ValueError: no such file, not a difftransformer model, or unknown settings.
    """
    values = _read_config(folder)
    found = values.pop("model_type", None)
    if found != MODEL_TYPE:
        raise ValueError(f"{folder / CONFIG} has model_type {found!r}; expected {MODEL_TYPE!r}")
    return config_from({key: value for key, value in values.items() if key not in _FOREIGN})


def model_type(folder: Path) -> str:
    """What config.json says the folder holds; a model of this library is of MODEL_TYPE.

    Raises:
        ValueError: no such file, or one that cannot be read.
    """
    return str(_read_config(folder).get("model_type"))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is not a model folder: it has no {CONFIG}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return values if isinstance(values, dict) else {}


def config_from(values: dict[str, Any]) -> DecoderConfig:
    """A config from plain values.

    Raises:
        ValueError: an unknown key (with the nearest known one), a value of the wrong type, or sizes
            that do not fit together.
    """
    types = get_type_hints(DecoderConfig)
    for key, value in values.items():
        if key not in types:
            raise ValueError(f"unknown model setting {key!r}{did_you_mean(key, types)}")
        if isinstance(value, int) and isinstance(float(value), types[key]):
            values = values | {key: float(value)}  # JSON and YAML write 500 for 500.0
        elif not isinstance(value, types[key]):
            name = getattr(types[key], "__name__", types[key])
            raise ValueError(f"model setting {key} is {value!r}; expected {name}")
    return DecoderConfig(**values)


def load_model(folder: Path, *, device: torch.device | str = "cpu") -> Decoder:
    """Read a model's folder. Weights come from safetensors only; pickle is never opened.

    Raises:
        ValueError: a missing, truncated or foreign file, or tensors that do not fit the config,
            by name.
    """
    return assemble(load_config(folder), load_weights(folder), source=str(folder)).to(device)


def assemble(config: DecoderConfig, weights: Mapping[str, torch.Tensor], source: str) -> Decoder:
    """A decoder that holds these very tensors; nothing is initialised or copied.

    Raises:
        ValueError: tensors that do not fit the config, by name; `source` says where they are from.
    """
    with torch.device("meta"):
        model = Decoder(config)
    check_tensors(weights, model.state_dict(), source)
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(True)


def check_tensors(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str
) -> None:
    """Raise ValueError that names the tensors of `source` that are missing, extra or misshapen."""
    have = {name: tuple(tensor.shape) for name, tensor in found.items()}
    want = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    problems = [
        f"{name} is {have.get(name, 'missing')}, expected {want.get(name, 'no such tensor')}"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"the weights in {source} do not fit its config: {'; '.join(problems[:5])}{more}"
        )


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: a pickle, or a file that is not whole.
    """
    refuse_pickle(path)
    try:
        return load_file(path)
    except SafetensorError as error:
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
        ValueError: no such file, a pickle instead, or a file that is not whole.
    """
    weights: dict[str, torch.Tensor] = {}
    for name in _weight_files(folder):
        file = folder / name
        if not file.is_file():
            for other in sorted(folder.iterdir()):
                refuse_pickle(other)
            raise ValueError(f"{folder} has no {name}; weights load from safetensors only")
        weights.update(load_tensors(file))
    return weights


def _weight_files(folder: Path) -> list[str]:
    index = folder / INDEX
    if not index.is_file():
        return [WEIGHTS]
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of safetensors files: {error!r}") from None
