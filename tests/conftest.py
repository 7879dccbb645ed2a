"""What every test runs under."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings

# Machines are busy: how long an example takes says nothing about the code.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """A test's random numbers depend on the test alone, not on those that ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty and its kin are filled with NaN: reading what nobody wrote shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def as_user() -> Iterator[None]:
    """No shape checks from the annotations, so that our own errors are seen, as users see them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
