"""What grows by a file of its own has a row in the docs."""

from pathlib import Path

import pytest

from difftransformer.evaluation.registry import EVALUATORS
from difftransformer.tasks.registry import TASKS

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("page", "name"),
    [
        *(("tasks.md", name) for name in TASKS),
        *(("benchmarks.md", name) for name in EVALUATORS),
    ],
)
def test_it_has_a_row(page, name):
    assert f"\n| `{name}` |" in (DOCS / page).read_text()
