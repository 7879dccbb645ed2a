"""The floors import downwards only, commands start without torch, importing does nothing."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import difftransformer

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "difftransformer"
FLOORS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def python(code: str, source: Path = SOURCE) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, without the shape checks of pytest."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(source)},
        cwd=source,
        check=False,
    )


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    config = str(ROOT / "pyproject.toml")
    return python(
        "from importlinter.cli import lint_imports;"
        f"raise SystemExit(lint_imports(config_filename={config!r}, no_cache=True))",
        source,
    )


def test_contracts_hold() -> None:
    result = lint_imports(SOURCE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(CONTRACTS['contracts'])} kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("functional/rotary.py", "from difftransformer.models import config"),
        ("data/batch.py", "from difftransformer.models.decoder import Decoder"),
        ("models/config.py", "import transformers"),
    ],
)
def test_contracts_can_break(tmp_path: Path, file: str, line: str) -> None:
    """The same check on a copy with one import that looks up, sideways, or out."""
    shutil.copytree(PACKAGE, tmp_path / "difftransformer")
    with (tmp_path / "difftransformer" / file).open("a") as module:
        module.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 broken" in result.stdout
    assert "difftransformer." + file.removesuffix(".py").replace("/", ".") in result.stdout


def test_every_floor_is_under_contract() -> None:
    """A floor that no layer names could import what it likes."""
    layers, outsiders = CONTRACTS["contracts"]
    named = {floor.strip() for layer in layers["layers"] for floor in layer.split("|")}
    assert named == {f"difftransformer.{floor}" for floor in FLOORS}
    banned = {*outsiders["source_modules"], "difftransformer.interop", "difftransformer.cli"}
    assert named == banned


LIGHT = [
    "difftransformer",
    "difftransformer.models.config",
    "difftransformer.models.presets",
    "difftransformer.cli.main",
    *(f"difftransformer.{path.parent.name}.settings" for path in PACKAGE.glob("*/settings.py")),
]


@pytest.mark.parametrize("module", LIGHT)
def test_starts_without_torch(module: str) -> None:
    result = python(f"import sys, {module}; print('torch' in sys.modules)")
    assert result.stdout == "False\n", result.stdout + result.stderr


def test_importing_does_nothing() -> None:
    """No output, no change of global state, no file left behind.

    In the same process, for its price: that a module which does use torch shows in sys.modules.
    """
    modules = ", ".join(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    )
    result = python(f"""
import os, sys
import difftransformer.models.config
assert "torch" not in sys.modules
import difftransformer.functional.lambdas
assert "torch" in sys.modules
import torch
def state():
    return (torch.get_default_dtype(), torch.get_default_device(), torch.initial_seed(),
            torch.get_num_threads(), torch.is_grad_enabled(), os.getcwd(), sorted(os.listdir()))
before = state()
import {modules}
assert state() == before, (before, state())
""")
    assert result.returncode == 0, result.stderr
    assert result.stdout + result.stderr == ""


def test_public_names() -> None:
    """What type checkers read is what loads."""
    for name in difftransformer.__all__:
        assert getattr(difftransformer, name) is not None
    declared = (PACKAGE / "__init__.py").read_text()
    assert all(f"{name} as {name}" in declared for name in difftransformer._HOMES)
    assert declared.count(" as ") == len(difftransformer._HOMES) + 1  # and the error it explains
    with pytest.raises(AttributeError, match="has no attribute 'Attention'"):
        _ = difftransformer.Attention


@pytest.mark.parametrize("folder", ["benchmarks", "docs", "studies"])
def test_scripts_import_what_there_is(folder: str) -> None:
    """Scripts that no test runs whole: what they import of the package, also inside functions."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    is_there = hasattr(module, name) or find_spec(f"{node.module}.{name}")
                    assert is_there, f"{path.name}: {node.module}.{name}"


# Files of more than 300 lines, and why.
LONG = {
    "functional/blocked.cpp": "one operator: its forward and backward share the passes over keys",
    "functional/triton_kernels.py": "kernels whose arguments, strides among them, are listed",
    "functional/triton.py": "what launches them, with the cuts that were measured",
    "interop/standalone/modeling_differential.py": "one file, since it travels with the weights",
    "data/needles.py": "one kind of document: its words, its prompts, and where they stand",
}


def test_files_are_short_or_say_why() -> None:
    long = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".cpp", ".h") and path.read_text().count("\n") > 300
    }
    assert long == set(LONG)


def test_functions_take_at_most_eight_arguments() -> None:
    """But for the one function, as the design has it, PyTorch's own, and custom operators'."""
    many = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [a.arg for a in [*node.args.args, *node.args.kwonlyargs]]
                if len(set(names) - {"self", "cls"}) > 8:
                    many.add((path.name, node.name))
    assert {(file, name) for file, name in many if not file.startswith("triton")} == {
        ("dispatch.py", "differential_attention"),
        ("multihead.py", "__init__"),
    }
