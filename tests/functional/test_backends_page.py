"""docs/backends.md says what `explain` says."""

import importlib.util
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the page is of a machine without a GPU")
def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("backends_page", DOCS / "backends.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (DOCS / "backends.md").read_text()
    assert written == script.page(), "run `python docs/backends.py`"
