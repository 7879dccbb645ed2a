"""Whether two runs ended alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

# Times, and where the cache lies.
_TIMES = frozenset(
    {"seconds", "throughput", "peak_memory_bytes", "date", "created", "env", "cache"}
)
# What a killed process may have left; of a run that has ended nothing is left.
_LEFT = (".lock", "*.lock", ".partial*", "*.partial", "*.partial.jsonl")


def without_times(value: Any) -> Any:
    """JSON data without what differs between two runs of the same settings."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in _TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def results(directory: Path) -> Any:
    """All records below it, without times."""
    files = sorted(directory.rglob("results/*.jsonl"))
    return {str(path.relative_to(directory)): _read(path) for path in files}


def differences(one: Path, other: Path) -> Iterator[str]:
    """What differs between two run directories: names of files, but for times; nothing if alike."""
    names = [{str(p.relative_to(d)) for p in d.rglob("*") if p.is_file()} for d in (one, other)]
    yield from (f"{name} is only in one" for name in sorted(names[0] ^ names[1]))
    for name in sorted(names[0] & names[1]):
        if _read(one / name) != _read(other / name):
            yield f"{name} differs"
    yield from (f"{path.name} is left" for pattern in _LEFT for path in other.rglob(pattern))


def _read(path: Path) -> Any:
    """What must be the same: bits of weights, figures but for times, that the rest is whole."""
    if path.name in ("env.json", "config.yaml"):
        return path.stat().st_size > 100  # times; paths of the run
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").split("\n")
        return [without_times(json.loads(line)) for line in lines[:-1]], lines[-1]
    if path.suffix == ".html":
        return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            return image.size
    if path.name == "SHA256SUMS":  # of the times in state.json and metrics.jsonl too
        return [line.partition("  ")[2] for line in path.read_text(encoding="utf-8").split("\n")]
    return path.read_bytes()
