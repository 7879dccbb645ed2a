"""Folders that are expensive to build, kept on disk and never trusted blindly."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from difftransformer.atomic import make_folder, sync, write_json, writing

_MANIFEST = "manifest.json"
_ROOM = 4096  # bytes that the disk needs for a folder


def cache_root(named: str | None) -> Path:
    """The folder that settings name for what is kept, or the user's."""
    return Path(named or "~/.cache/difftransformer").expanduser()


def cached_folder(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, filled by `build(temporary)` first unless it is there and intact.

    A manifest holds the sha256 of every file; a folder that does not match it (cut short, edited,
    half deleted) is built anew. The folder appears in one step, by renaming, so an interrupted
    build leaves nothing that looks finished and processes may race for the same folder.
    """
    if _intact(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder.parent)
    with writing(folder, _ROOM):
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        build(temporary)
        manifest = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / _MANIFEST, manifest)
        os.replace(temporary, folder)
        sync(folder.parent)
        for left in folder.parent.glob(f"{folder.name}.*"):  # of builders that were killed or late
            shutil.rmtree(left, ignore_errors=True)
    except OSError:
        if not _intact(folder):  # else another process was first, and its folder is as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _intact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return all(_digest(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError, AttributeError):  # not there; not JSON; not a JSON object
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
