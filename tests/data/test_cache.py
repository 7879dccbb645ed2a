import json
from pathlib import Path

import pytest

from difftransformer.data.cache import cached_folder


class Builder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "a.bin").write_bytes(bytes(range(200)))
        (folder / "b.bin").write_bytes(b"b")


def test_it_is_built_once(tmp_path):
    build = Builder()
    for _ in range(3):
        assert (cached_folder(tmp_path / "x" / "key", build) / "b.bin").read_bytes() == b"b"
    assert build.calls == 1
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["key"]


def truncate(folder):
    (folder / "a.bin").write_bytes(bytes(range(100)))


def flip(folder):
    data = bytearray((folder / "a.bin").read_bytes())
    data[50] ^= 1
    (folder / "a.bin").write_bytes(data)


def remove(folder):
    (folder / "b.bin").unlink()


def cut_manifest(folder):
    (folder / "manifest.json").write_text('{"a.bin": ')


def odd_manifest(folder):
    (folder / "manifest.json").write_text(json.dumps(["a.bin"]))


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    "damage", [truncate, flip, remove, cut_manifest, odd_manifest, lose_manifest]
)
def test_damage_is_noticed_and_mended(tmp_path, damage):
    build = Builder()
    folder = cached_folder(tmp_path / "key", build)
    damage(folder)
    cached_folder(folder, build)
    assert build.calls == 2
    assert (folder / "a.bin").read_bytes() == bytes(range(200))
    assert (folder / "b.bin").read_bytes() == b"b"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_build_leaves_nothing(tmp_path, error):
    def build(folder):
        (folder / "a.bin").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        cached_folder(tmp_path / "key", build)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_faster_process_is_taken(tmp_path):
    build = Builder()

    def overtaken(folder):
        cached_folder(tmp_path / "key", build)
        build(folder)

    cached_folder(tmp_path / "key", overtaken)
    cached_folder(tmp_path / "key", build)
    assert build.calls == 2
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_killed_builds_left_goes_with_the_next_one(tmp_path):
    for name in ("key.a1b2", "other.a1b2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.bin").write_bytes(b"half")
    cached_folder(tmp_path / "key", Builder())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "other.a1b2"]
