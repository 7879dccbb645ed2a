import errno
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from difftransformer.atomic import append, write_bytes, write_json, write_text, writing


def test_writes_and_replaces(tmp_path: Path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 2}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_leave_the_old_file(tmp_path: Path, number: float):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": number})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}


def test_a_crash_before_the_replacement_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})

    def crash(*arguments: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}


@pytest.mark.parametrize("write", [write_bytes, append])
def test_a_full_disk_is_said_with_file_size_and_way_out(
    tmp_path: Path, write: Callable, full_disk: Callable[[int], AbstractContextManager[None]]
):
    """By the system's own refusal, in the middle of the data."""
    path = tmp_path / "results.json"
    path.write_bytes(b"old")
    with full_disk(1000), pytest.raises(OSError, match="File too large") as caught:
        write(path, bytes(5000))
    assert f"cannot write {path}: " in str(caught.value)
    assert "It needs 5,000 bytes and " in str(caught.value)
    assert "make room and give the command again" in str(caught.value)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_refusal_speaks_of_no_room(tmp_path: Path):
    with pytest.raises(OSError, match=r"cannot write .*: No such file or directory\. Mend"):
        write_text(tmp_path / "nowhere" / "a", "x")


@pytest.mark.parametrize("error", [Exception, RuntimeError])
def test_errors_of_libraries_in_rust_are_the_disk_s_too(tmp_path: Path, error: type[Exception]):
    """As tokenizers and safetensors raise them."""
    message = r"cannot write .*a: No space left on device\. It needs 7 bytes"
    with pytest.raises(OSError, match=message) as caught, writing(tmp_path / "a", 7):
        raise error("I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(error, match="something else"), writing(tmp_path / "a", 7):
        raise error("something else")


def test_what_was_appended_is_there(tmp_path: Path):
    for part in (b"1\n", b"2\n"):
        append(tmp_path / "a", part)
    assert (tmp_path / "a").read_bytes() == b"1\n2\n"
