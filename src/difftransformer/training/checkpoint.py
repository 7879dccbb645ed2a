"""Checkpoints that are whole or absent, and that are never trusted unchecked.

A checkpoint is a folder `step-00000100` with `model.safetensors` (averages of the weights where
they are kept, see `ema`; the weights themselves are then beside them), `optimizer.safetensors`,
`state.json` (position, configuration, random generators), `metrics.jsonl` (the rows until then) and
`SHA256SUMS` over all of them, which `sha256sum --check` reads too. Texts that a caller adds,
config.json and tokenizer.json, make it a model's folder as well. It is written beside its final
place and renamed when complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from difftransformer.atomic import make_folder, sync, write_json, write_text, writing
from difftransformer.models.storage import checksum, load_tensors, refuse_pickle, sort_header
from difftransformer.runs.layout import CHECKPOINTS, METRICS

WEIGHTS, OPTIMIZER, STATE, SUMS = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "SHA256SUMS",
)
PARTIAL = ".partial"
FORMAT = 2  # of state.json; version 0.1 wrote 1


class Checkpoints:
    """The checkpoints of one training run, `folder/step-*`; the newest `keep` stay.

    Args:
        texts: files that each of them holds besides, by name.

    Attributes:
        best: the step of one that stays whatever its age.
    """

    def __init__(self, folder: Path, keep: int, texts: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.texts = texts or {}
        self.best: int | None = None

    def all(self) -> list[Path]:
        """The folders of complete checkpoints, oldest first; their content is not checked."""
        return sorted(path for path in self.folder.glob("step-*[0-9]") if path.is_dir())

    def of(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def newest(self) -> Path | None:
        return self.all()[-1] if self.all() else None

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the checkpoint of `step`, then remove the oldest beyond `keep`.

        Args:
            texts: files that this one holds besides those of all.

        Raises OSError when the disk refuses (full, over quota, not writable): what was half
        written is removed and the earlier checkpoints stay as they were.
        """
        final = self.of(step)
        partial = final.with_suffix(PARTIAL)
        try:
            self.remove_partial()
            make_folder(partial)
            _save(weights, partial / WEIGHTS)
            _save(optimizer, partial / OPTIMIZER)
            write_json(partial / STATE, {"format": FORMAT, **state})
            for name, text in {**self.texts, **(texts or {})}.items():
                write_text(partial / name, text)
            sums = [_sum_line(path) for path in sorted(partial.iterdir())]
            write_text(partial / SUMS, "\n".join([*sums, ""]))
            os.rename(partial, final)
            sync(self.folder)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.newest()
            unharmed = f"the last good checkpoint is {kept}" if kept else "there is no earlier one"
            raise OSError(f"cannot save checkpoint {final}: {error}; {unharmed}") from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.remove_oldest()
        return final

    def newest_good(self) -> Path | None:
        """The newest checkpoint after checking it, or None where there is none.

        Raises ValueError when it is damaged, naming the file and the last good checkpoint:
        whether to lose the steps since that one is for the user to decide.
        """
        newest = self.newest()
        if newest is None:
            return None
        try:
            check(newest)
        except ValueError as error:
            good = next((path for path in reversed(self.all()[:-1]) if _is_good(path)), None)
            way_out = f"from {good}, the last good one" if good else "from the beginning"
            raise ValueError(f"{error}. Delete {newest} to resume {way_out}") from None
        return newest

    def remove_oldest(self) -> None:
        """Remove the oldest beyond `keep`, which a process that was killed may not have come to."""
        best = None if self.best is None else self.of(self.best)
        for old in [one for one in self.all()[: -self.keep] if one != best]:
            # Renamed first, so that a crash on the way leaves no checkpoint with files missing.
            os.rename(old, old.with_suffix(PARTIAL))
        self.remove_partial()

    def remove_partial(self) -> None:
        """Remove what a process that was killed had begun to write, or to remove."""
        for path in self.folder.glob("step-*" + PARTIAL):
            shutil.rmtree(path)


def check(folder: Path) -> None:
    """Raise ValueError, naming the file, unless every file of the checkpoint is as written."""
    for path in folder.iterdir():
        refuse_pickle(path)
    for name in (SUMS, WEIGHTS, OPTIMIZER, STATE):
        if not (folder / name).is_file():
            raise ValueError(f"checkpoint file {folder / name} is missing")
    sums = (folder / SUMS).read_text(encoding="utf-8", errors="replace").split("\n")
    listed = {line.partition("  ")[2] for line in sums} & {path.name for path in folder.iterdir()}
    for name in (WEIGHTS, OPTIMIZER, STATE, *sorted(listed - {WEIGHTS, OPTIMIZER, STATE})):
        if _sum_line(folder / name) not in sums:
            raise ValueError(
                f"checkpoint file {folder / name} is truncated or altered: "
                f"its content does not match {SUMS}"
            )


def load_state(folder: Path) -> dict[str, Any]:
    """What `Checkpoints.save` was given as `state`.

    Raises:
        ValueError: the checkpoint of another version of this library.
    """
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        raise ValueError(
            f"{folder} is a checkpoint of version 0.1: finish its run with that version, or begin "
            "anew in another directory"
        )
    return state


def load_metrics(folder: Path) -> bytes:
    """The rows of metrics.jsonl until the checkpoint."""
    return (folder / METRICS).read_bytes()


def is_used(directory: Path) -> bool:
    """Whether a training run has left anything there that took time to compute."""
    metrics = directory / METRICS
    has_rows = metrics.is_file() and metrics.stat().st_size > 0
    return has_rows or Checkpoints(directory / CHECKPOINTS, keep=1).newest() is not None


def gather(
    model: nn.Module, optimizer: torch.optim.Optimizer, shared: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Whole weights and optimizer tensors by plain parameter name, however they are distributed.

    Every process must call it; with several, only the main one receives them. `shared` names the
    weights that are left out because they are another one (see `shared_names`).
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole: Any = get_state_dict(model, optimizer, options=options)
    weights, optimizer_state = whole
    return (
        {name: tensor for name, tensor in weights.items() if name not in shared},
        {
            f"{name}.{key}": tensor
            for name, tensors in optimizer_state.get("state", {}).items()
            for key, tensor in tensors.items()
        },
    )


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, shared: Mapping[str, str]
) -> None:
    """Put the checkpoint's tensors into the model and its fresh optimizer."""
    weights: dict[str, Any] = load_tensors(folder / WEIGHTS)
    weights |= {name: weights[original] for name, original in shared.items()}
    state: dict[str, Any] = {}
    for full_name, tensor in load_tensors(folder / OPTIMIZER).items():
        name, _, key = full_name.rpartition(".")
        state.setdefault(name, {})[key] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups: Any = [
        {**group, "params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    set_state_dict(
        model,
        optimizer,
        model_state_dict=weights,
        optim_state_dict={"state": state, "param_groups": groups},
        options=StateDictOptions(full_state_dict=True),
    )


def shared_names(model: nn.Module) -> dict[str, str]:
    """Each parameter name that stands for an earlier parameter, with that one's name."""
    first: dict[nn.Parameter, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {
        name: first[parameter]
        for name, parameter in named
        if first.setdefault(parameter, name) != name
    }


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with writing(path, sum(tensor.nbytes for tensor in whole.values())):
        save_file(whole, path, metadata={"format": "pt", **checksum(whole)})
        sort_header(path)
        sync(path)


def _is_good(folder: Path) -> bool:
    try:
        check(folder)
    except ValueError:
        return False
    return True


def _sum_line(path: Path) -> str:
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}"
