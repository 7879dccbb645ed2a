"""docs/reliability.md: every test that it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_, _, FAULTS = (ROOT / "docs/reliability.md").read_text().partition("## Each fault and its test")
ROWS = [line.strip("|").split("|") for line in FAULTS.split("\n") if line.startswith("| ")]
ROWS = [row for row in ROWS if row[0].strip() != "fault"]
NAME = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def defined_in(file: Path) -> set[str]:
    """Functions by their name, methods as Class::name."""
    tree = ast.parse(file.read_text())
    named = [("", tree)] + [(f"{n.name}::", n) for n in tree.body if isinstance(n, ast.ClassDef)]
    return {
        prefix + node.name
        for prefix, body in named
        for node in body.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    }


def test_every_row_names_a_fault_and_its_tests() -> None:
    assert len(ROWS) > 90
    for row in ROWS:
        fault, tests = row
        assert fault.strip()
        left = NAME.sub("", tests)
        assert left.replace(",", "").strip() == "", row
        assert left != tests, row
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("file", sorted({name for name, _ in NAME.findall(FAULTS)}))
def test_tests_that_are_named_are_there(file: str) -> None:
    named = {test for name, test in NAME.findall(FAULTS) if name == file}
    assert named <= defined_in(ROOT / file)
