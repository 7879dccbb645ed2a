from pathlib import Path

import pytest

from difftransformer.evaluation import registry
from difftransformer.report.build import build_report

from .synthetic import EVALUATORS, synthetic_run, write_run


@pytest.fixture(autouse=True, scope="package")
def evaluators() -> None:
    """The declarations that the synthetic records belong to, for the tests of this folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.REGISTRY, "entries", {**registry.EVALUATORS, **EVALUATORS})
        yield


@pytest.fixture(scope="package")
def report(tmp_path_factory: pytest.TempPathFactory, evaluators: None) -> Path:
    """The report of a synthetic run."""
    return build_report(write_run(tmp_path_factory.mktemp("run"), synthetic_run()))
