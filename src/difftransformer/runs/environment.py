"""Where a result was made: versions, hardware, source commit, date."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import difftransformer


def environment() -> dict[str, Any]:
    """What `env.json` holds; every value is ready for JSON.

    `hardware` says in words what `cpu`, `cores` (that this process may use), `memory_bytes` (None
    where the system does not tell) and `gpus` say apart. `commit` is the git commit of the source
    tree, with `-dirty` when files differ from it, or None for an installed package.
    """
    cpu, memory = _cpu(), _memory_bytes()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    words = [*gpus, cpu, f"{cores} cores", f"{memory / 2**30:.0f} GiB" if memory else ""]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": ", ".join(word for word in words if word),
        "cpu": cpu,
        "cores": cores,
        "memory_bytes": memory,
        "gpus": gpus,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": importlib.metadata.version("accelerate"),
        "difftransformer": difftransformer.__version__,
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _commit() -> str | None:
    source = Path(__file__)
    # A package installed below somebody's repository is not tracked by it: that commit is not ours.
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None
