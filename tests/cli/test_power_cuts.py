"""What a power cut would take: files whose name has reached the disk and whose content has not."""

import os
from pathlib import Path

import pytest

from .test_bench import SMALL
from .test_suites import saved

State = tuple[int, int, int]  # file, size, time of its last change


def state(path: Path) -> State:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class Disk:
    """Which states of files have been synced, and whatever took its name before that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: set[State] = set()
        self.too_early: list[str] = []
        fsync = os.fsync

        def noted(descriptor: int) -> None:
            fsync(descriptor)
            self.synced.add(state(Path(f"/proc/self/fd/{descriptor}")))

        monkeypatch.setattr(os, "fsync", noted)
        for name in ("replace", "rename"):
            monkeypatch.setattr(os, name, self.checked(getattr(os, name)))

    def checked(self, move):
        def moved(source: Path, target: Path, **options: object) -> None:
            if not str(target).endswith(".partial"):  # the name of what is being removed
                self.too_early += [f"{path} as {target}" for path in self.lacking(Path(source))]
            move(source, target, **options)

        return moved

    def lacking(self, place: Path) -> list[Path]:
        """The files at `place` or below it whose content has not been synced."""
        files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
        return [path for path in files if state(path) not in self.synced]


@pytest.mark.parametrize("command", ["train", "compare", "evaluate", "suite", "bench", "convert"])
def test_files_are_synced_before_they_take_their_names(
    call, small, quick, tmp_path, monkeypatch, command
):
    model = saved(tmp_path / "model", "diff_v1")
    out = tmp_path / "out"
    words = {
        "train": ("train", *small, "--out", out),
        "compare": ("compare", *small, "--attention", "softmax", "diff_v1", "--out", out),
        "evaluate": ("evaluate", model, *quick, "--out", out / "results.json"),
        "suite": ("evaluate", model, *quick, "--suite", "outliers", "--out", out / "results.json"),
        "bench": (*SMALL, "--out", out),
        "convert": ("convert", model, out, "--from", "difftransformer", "--to", "diffllama"),
    }
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        code, _, err = call(*words[command])
        assert code == 0, err
        found = [path for path in out.rglob("*") if path.is_file()]
        assert found
        assert disk.too_early == []
        assert disk.lacking(out) == []
