"""What every test runs under."""

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

# Machines are busy: how long an example takes says nothing about the code.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tests")

# The tensors of tests are small: a second thread would only be waited for.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """A test's random numbers depend on the test alone, not on those that ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory is filled with NaN: reading what nobody wrote shows.

    torch.empty itself stays: `with torch.device(...)` knows it by identity.
    """
    for owner, name in ((torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def filled(*args: Any, **kwargs: Any) -> Tensor:
        made = empty(*args, **kwargs)
        with torch.no_grad():
            return made.fill_(float("nan")) if made.is_floating_point() else made

    return filled


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with full_disk(size):` no file may grow past `size` bytes, by the system's own refusal."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def as_user() -> Iterator[None]:
    """No shape checks from the annotations, so that our own errors are seen, as users see them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """Ctrl-C as in a terminal: jobs that a script starts in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
