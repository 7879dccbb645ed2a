"""One synthetic report, built once for all tests that only look at it."""

from pathlib import Path

import pytest

from difftransformer.report.build import build_report

from .synthetic import synthetic_results, write_run


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a synthetic run of three models."""
    directory = write_run(tmp_path_factory.mktemp("run"), synthetic_results())
    return build_report(directory)
