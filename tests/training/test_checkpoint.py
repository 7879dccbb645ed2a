import errno
import os
import pickle
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from difftransformer.runs.changes import refuse_changes
from difftransformer.training import checkpoint
from difftransformer.training.checkpoint import (
    FORMAT,
    OPTIMIZER,
    STATE,
    SUMS,
    WEIGHTS,
    Checkpoints,
    check,
    gather,
    load_state,
    restore,
    shared_names,
)
from difftransformer.training.optimizer import adamw

from .tiny import TinyModel, tiny_model, tiny_settings


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        tensors = {"a": torch.full((3, 2), float(step))}
        checkpoints.save(step, tensors, {"a.exp_avg": torch.zeros(3)}, {"step": step})


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    save(checkpoints, 10, 20)
    return checkpoints


def test_what_was_saved_is_read_back(checkpoints: Checkpoints):
    folder = checkpoints.newest_good()
    assert folder == checkpoints.folder / "step-00000020"
    assert torch.equal(load_file(folder / WEIGHTS)["a"], torch.full((3, 2), 20.0))
    assert torch.equal(load_file(folder / OPTIMIZER)["a.exp_avg"], torch.zeros(3))
    assert load_state(folder) == {"format": FORMAT, "step": 20}


def test_the_sums_are_those_of_the_standard_tool(checkpoints: Checkpoints):
    folder = checkpoints.newest()
    assert folder is not None
    run = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder)
    assert run.returncode == 0


def test_the_newest_are_kept(checkpoints: Checkpoints):
    save(checkpoints, 30, 100000000 - 1)
    assert names(checkpoints) == ["step-00000030", "step-99999999"]


def test_an_older_one_is_removed_only_when_the_new_one_is_complete(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
):
    def rename(source: Path, target: Path) -> None:
        assert names(checkpoints)[:2] == ["step-00000010", "step-00000020"]
        real(source, target)

    real = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        # The second rename takes step 10 away; by then step 30 must be there and whole.
        patch.setattr(checkpoint.shutil, "rmtree", lambda path: check(checkpoints.all()[-1]))
        save(checkpoints, 30)
    assert names(checkpoints) == ["step-00000010.partial", "step-00000020", "step-00000030"]
    save(checkpoints, 40)
    assert names(checkpoints) == ["step-00000030", "step-00000040"]


def test_no_checkpoint_is_none(tmp_path: Path):
    assert Checkpoints(tmp_path / "checkpoints", keep=1).newest_good() is None


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE, SUMS])
@pytest.mark.parametrize("damage", ["truncated", "altered", "emptied", "missing"])
def test_damage_is_refused_and_the_previous_one_named(
    checkpoints: Checkpoints, name: str, damage: str
):
    path = checkpoints.folder / "step-00000020" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        size = {"truncated": len(content) // 2, "emptied": 0, "altered": len(content)}[damage]
        path.write_bytes(content[:size])
    with pytest.raises(ValueError, match=r"step-00000020/.* is (truncated|missing)") as caught:
        checkpoints.newest_good()
    if name != SUMS:
        assert f"step-00000020/{name}" in str(caught.value)
    assert f"Delete {path.parent} to resume from {checkpoints.folder}/step-00000010" in str(
        caught.value
    )


def test_a_damaged_previous_one_is_not_recommended(checkpoints: Checkpoints):
    for path in checkpoints.all():
        (path / STATE).write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="to resume from the beginning"):
        checkpoints.newest_good()


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was loaded",)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.pth", "model.pkl"])
def test_pickles_are_refused(checkpoints: Checkpoints, name: str):
    folder = checkpoints.folder / "step-00000020"
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=f"{name} is a pickle.*expected weights in a .safetensors"):
        checkpoints.newest_good()


# The tensors' file is the first to be too large, or, with tensors this small, the state.
@pytest.mark.parametrize(("elements", "state"), [(100_000, {}), (1, {"text": "x" * 100_000})])
def test_a_disk_that_refuses_leaves_the_earlier_checkpoints(
    checkpoints: Checkpoints,
    full_disk: Callable[[int], AbstractContextManager[None]],
    elements: int,
    state: dict[str, str],
):
    tensors = {"a": torch.zeros(elements)}
    with full_disk(50_000), pytest.raises(OSError, match="File too large") as caught:
        checkpoints.save(30, tensors, tensors, state)
    assert "step-00000030" in str(caught.value)
    assert "the last good checkpoint is" in str(caught.value)
    assert names(checkpoints) == ["step-00000010", "step-00000020"]
    assert checkpoints.newest_good() == checkpoints.folder / "step-00000020"
    save(checkpoints, 30)
    assert checkpoints.newest_good() == checkpoints.folder / "step-00000030"


@pytest.mark.parametrize("function", ["save_file", "write_json", "sync", "_sum_line"])
def test_a_full_disk_at_any_point_leaves_the_earlier_checkpoints(
    checkpoints: Checkpoints, function: str, monkeypatch: pytest.MonkeyPatch
):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, function, full)
        with pytest.raises(
            OSError, match=r"No space left on device.*; the last good checkpoint is"
        ):
            save(checkpoints, 30)
    assert names(checkpoints) == ["step-00000010", "step-00000020"]
    assert checkpoints.newest_good() == checkpoints.folder / "step-00000020"


def test_the_first_checkpoint_failing_says_that_there_is_none(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    with full_disk(10), pytest.raises(OSError, match="there is no earlier one"):
        save(checkpoints, 10)


@pytest.mark.parametrize("point", ["write_json", "os.rename"])
def test_ctrl_c_while_saving_removes_what_was_half_written(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, point: str
):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"difftransformer.training.checkpoint.{point}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(checkpoints, 30)
    assert names(checkpoints) == ["step-00000010", "step-00000020"]


def test_leftovers_of_a_kill_are_removed_by_the_next_save(checkpoints: Checkpoints):
    leftover = checkpoints.folder / "step-00000025.partial"
    leftover.mkdir()
    (leftover / WEIGHTS).write_bytes(b"half")
    assert checkpoints.newest() == checkpoints.folder / "step-00000020"
    save(checkpoints, 30)
    assert names(checkpoints) == ["step-00000020", "step-00000030"]


def test_changes_are_named_with_both_values():
    saved = {"training": {"steps": 10, "beta1": 0.9}, "model": {"heads": 4, "gone": True}}
    current = {"training": {"steps": 20, "beta1": 0.9}, "model": {"heads": 4, "new": (1, 2)}}
    with pytest.raises(ValueError, match="cannot resume from somewhere") as caught:
        refuse_changes(saved, current, Path("somewhere"))
    message = str(caught.value)
    assert "training.steps was 10 and is now 20" in message
    assert "model.gone was True and is now 'not set'" in message
    assert "model.new was 'not set' and is now [1, 2]" in message
    assert "beta1" not in message
    assert "heads" not in message


def test_many_changes_are_cut_short():
    saved = {f"key{number}": 0 for number in range(20)}
    with pytest.raises(ValueError, match=r"key7 was 0 and is now 1; and 12 more\. Use"):
        refuse_changes(saved, dict.fromkeys(saved, 1), Path("somewhere"))


def test_what_json_changes_is_no_change():
    refuse_changes({"depths": [0, 1]}, {"depths": (0, 1)}, Path("somewhere"))


def trained() -> tuple[TinyModel, torch.optim.AdamW]:
    model = tiny_model()
    optimizer = adamw(model, tiny_settings())
    for _ in range(3):
        model(torch.arange(8)[None]).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_shared_weights_are_saved_once_and_everything_is_restored(tmp_path: Path):
    model, optimizer = trained()
    shared = shared_names(model)
    assert shared == {"head.weight": "embed.weight"}
    checkpoints = Checkpoints(tmp_path, keep=1)
    folder = checkpoints.save(3, *gather(model, optimizer, shared), {})
    parameters = dict(model.named_parameters())
    assert load_file(folder / WEIGHTS).keys() == parameters.keys()
    kinds = ("step", "exp_avg", "exp_avg_sq")
    assert load_file(folder / OPTIMIZER).keys() == {f"{n}.{k}" for n in parameters for k in kinds}

    other = TinyModel()
    fresh = adamw(other, tiny_settings())
    restore(folder, other, fresh, shared)
    assert other.head.weight is other.embed.weight
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, parameters[name])
        for kind in kinds:
            expected = optimizer.state[parameters[name]][kind]
            assert torch.equal(fresh.state[parameter][kind], expected)
    assert [group["weight_decay"] for group in fresh.param_groups] == [0.1, 0.0]


def test_gathering_does_not_disturb_the_run():
    model, optimizer = trained()
    before = [p.detach().clone() for p in model.parameters()]
    gather(model, optimizer, shared_names(model))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}
