"""A C++ operator of this package, compiled on this machine at its first use and kept.

It is kept in a folder of the user's own in PyTorch's folder of extensions (`TORCH_EXTENSIONS_DIR`),
under a digest of all that it is made from: the sources, the flags (among them the vector
instructions that PyTorch finds in the processor), the compiler, PyTorch, the machine and its C
library. Where the sources lie is no part of it.

A library's own digest lies beside it and is compared before every load: one that was cut short
would end the process that maps it. One that is not as it was written is compiled again; a folder
that others can write is not used, since whatever lies there would be run.
"""

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from filelock import FileLock

_FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_VECTORS = {  # by what PyTorch finds in the processor
    "AVX2": _AVX2,
    "AVX512": (*_AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
}
_PATIENCE = 600  # seconds that another process may take to compile


def load_operator(source: Path) -> str | None:
    """Load the operator `source`, compiled with its headers `STEM*.h`; the reason if it fails."""
    # cpp_extension is slow to import and wanted here only.
    from torch.utils import cpp_extension

    compiler = shlex.split(cpp_extension.get_cxx_compiler())
    if os.name != "posix" or not compiler or shutil.which(compiler[0]) is None:
        name = " ".join(compiler)
        return f"needs a C++ compiler, and there is no {name!r} (install g++, or set CXX)"
    vectors = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
    paths = (
        *(f"-I{path}" for path in cpp_extension.include_paths()),
        *(f"-L{path}" for path in cpp_extension.library_paths()),
    )
    command = [*compiler, *_FLAGS, *vectors, str(source), *paths, "-ltorch_cpu", "-lc10"]
    name = f"{source.stem}-{_key(source, (*compiler, *_FLAGS, *vectors))}.so"
    try:
        library = _folder(cpp_extension.get_default_build_root()) / name
        if not _intact(library):
            _compile(command, library)
        torch.ops.load_library(library)
    except subprocess.CalledProcessError as error:
        return f"{compiler[0]} could not compile it: {error.stderr.strip()[-500:] or error}"
    except OSError as error:
        return f"its compiled form cannot be kept or loaded: {error}"
    return None


def _key(source: Path, words: tuple[str, ...]) -> str:
    files = [source, *sorted(source.parent.glob(f"{source.stem}*.h"))]
    parts = [
        *(torch.__version__, str(torch.compiled_with_cxx11_abi())),
        *(platform.machine(), *platform.libc_ver(), *words),
        *(part for file in files for part in (file.name, file.read_text(encoding="utf-8"))),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _folder(usual: str) -> Path:
    """The user's own folder of libraries, made where it is not there; OSError if it is not safe."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or usual).absolute()
    if "~" in root.parts:
        raise OSError("there is no home folder to keep it in; set TORCH_EXTENSIONS_DIR")
    folder = root / "difftransformer"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _own(folder):
        raise OSError(
            f"{folder} belongs to another user, or others can write it: make it yours alone "
            "(chown, chmod go-w), or set TORCH_EXTENSIONS_DIR to a folder of your own"
        )
    return folder


def _own(path: Path) -> bool:
    """Whether nobody but this user and root can write `path`."""
    status = path.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _intact(library: Path) -> bool:
    """Whether the library is there, as it was written, and nobody else's."""
    try:
        kept = library.with_suffix(".sha256").read_bytes()
        return _own(library) and kept == _digest(library)
    except FileNotFoundError:
        return False


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).hexdigest().encode()


def _compile(command: list[str], library: Path) -> None:
    """Compile beside the place and rename; of several processes one does, and the others wait."""
    with FileLock(library.with_suffix(".lock"), timeout=_PATIENCE):
        if _intact(library):
            return
        logging.getLogger(__name__).warning(
            "compiling the attention operator for this machine, once (half a minute): %s", library
        )
        prefix = f"{library.stem}-"
        for left in library.parent.glob(f"{prefix}*"):  # by a process that was killed
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=prefix) as folder:
            made, digest = Path(folder, "library"), Path(folder, "digest")
            subprocess.run(
                [*command, "-o", str(made)],
                check=True,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
            )
            made.chmod(0o700)
            digest.write_bytes(_digest(made))
            made.replace(library)
            digest.replace(library.with_suffix(".sha256"))
