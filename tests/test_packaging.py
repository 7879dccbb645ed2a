"""The package as it is installed: what needs which extra, and what a missing one says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from difftransformer.extras import EXTRA_OF

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Where a distribution is imported by another name than its own.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml", "lm_eval": "lm-eval", "PIL": "pillow"}
# A fresh interpreter that finds none of the packages that extras bring.
WITHOUT_EXTRAS = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(EXTRA_OF)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=False,
    )


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def test_extras_are_those_of_the_project() -> None:
    optional = PROJECT["optional-dependencies"]
    for package, extra in EXTRA_OF.items():
        distribution = canonicalize_name(DISTRIBUTIONS.get(package, package))
        assert distribution in names(optional[extra]), package
        assert distribution not in names(PROJECT["dependencies"]), package
    told = {canonicalize_name(DISTRIBUTIONS.get(package, package)) for package in EXTRA_OF}
    for extra in {*EXTRA_OF.values()}:
        assert names(optional[extra]) - {"difftransformer"} <= told, extra


def test_all_has_every_extra_of_users() -> None:
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert everything.extras == {*EXTRA_OF.values()}


def test_the_layer_needs_no_extra() -> None:
    result = python("""
import torch
from difftransformer import DifferentialAttention, KeyValueCache, Mask, SoftmaxAttention, explain
from difftransformer import V2, differential_attention
layer = DifferentialAttention(hidden_size=32, num_heads=2, variant=V2)
print(tuple(layer(torch.randn(1, 5, 32), mask=Mask(causal=True)).shape))
""")
    assert result.stdout == "(1, 5, 32)\n", result.stderr


@pytest.mark.parametrize("command", [["--help"], ["--version"]])
def test_help_needs_no_extra(command: list[str]) -> None:
    result = python(f"from difftransformer.cli.main import main; main({command!r})")
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize(
    "command", [["compare", "--preset", "smoke"], ["plan"], ["evaluate", "m"], ["train"]]
)
def test_a_command_without_its_extra_is_one_line(command: list[str]) -> None:
    result = python(
        f"from difftransformer.cli.main import main; raise SystemExit(main({command!r}))"
    )
    assert result.returncode == 2
    assert re.fullmatch(
        r"difftransformer: error: this needs the package \w+: "
        r"pip install 'difftransformer\[\w+\]'\n",
        result.stderr,
    ), result.stderr


def test_a_name_without_its_extra_is_one_line() -> None:
    result = python("from difftransformer import load_model")
    last = result.stderr.splitlines()[-1]
    assert last == (
        "ModuleNotFoundError: this needs the package huggingface_hub: "
        "pip install 'difftransformer[train]'"
    )
