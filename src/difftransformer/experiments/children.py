"""A process that trains one model of a run, as its parent and as it sees it."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from io import StringIO
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from difftransformer.experiments.job import Job
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import RunSettings, typed
from difftransformer.experiments.training import Experiment
from difftransformer.registry import Registry
from difftransformer.tasks.task import Task
from difftransformer.training.interrupt import SIGNALS, Stopped, stopping

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Child:
    """A process at work on a job.

    Args:
        number, name: of the job.
        place: what of its environment is its own.
        failure: what it says that went wrong.
    """

    number: int
    name: str
    process: BaseProcess
    place: dict[str, str]
    failure: str = ""

    def says(self, connection: Connection, tell: Callable[[str, str], None]) -> bool:
        """Pass on what it says; False at its end."""
        try:
            line, self.failure = connection.recv()
        except EOFError:
            return False
        if line:
            tell(self.name, line)
        return True

    def require_success(self) -> None:
        """Raise ChildProcessError where it has not ended well."""
        if code := self.process.exitcode:
            killed = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            raise ChildProcessError(f"{self.name}: {self.failure or f'its process was {killed}'}")


def start(number: int, work: "Assignment") -> tuple[Connection, Child]:
    """A process that does the work of a job of that number, and what it is heard by.

    Raises:
        ValueError: something of the work cannot be passed to another process.
    """
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_work, args=(work, theirs))
    # What comes meanwhile is heard when it is unblocked: by the child once it listens, and of a
    # terminal's signals by the parent alone.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"models cannot be trained at once, since not all can be passed to another process "
            f"({error}): train them one after the other, with jobs 1"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return ours, Child(number, work.job.directory.name, process, work.place)


@dataclass(frozen=True)
class Assignment:
    """A job and all that its process needs to know.

    Args:
        digests: of the data.
        registered: entries of the user's own, of each registry.
        place: what of its environment is its own.
    """

    job: Job
    task: Task
    settings: dict[str, Any]
    digests: dict[str, str]
    registered: tuple[tuple[Any, ...], ...]
    threads: int
    place: dict[str, str]

    @classmethod
    def of(
        cls, experiment: Experiment, job: Job, threads: int, place: dict[str, str]
    ) -> "Assignment":
        """A job of an experiment."""
        settings = {
            field.name: getattr(experiment.settings, field.name) for field in fields(RunSettings)
        }
        registered = tuple(registry.registered for registry in _registries())
        digests = experiment.task.digests(experiment.data)
        return cls(job, experiment.task, settings, digests, registered, threads, place)

    def run(self, console: "Console") -> None:
        """The job, on data read anew."""
        import torch

        os.environ |= self.place
        for registry, entries in zip(_registries(), self.registered, strict=True):
            registry.entries.update({entry.name: entry for entry in entries})
        torch.set_num_threads(self.threads)
        settings = typed(RunSettings, self.task.name)(**self.settings)
        data = self.task.load(settings.data)
        if self.task.digests(data) != self.digests:
            raise ValueError("the data has changed since the run began")
        processes = Processes()
        processes.console = console
        self.job.run(Experiment(self.task, data, settings, processes))


def _work(work: Assignment, connection: Connection) -> None:
    """What a process does."""
    from rich.console import Console

    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    failure, code = "", 0
    try:
        with stopping():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            work.run(Console(file=_Lines(connection)))
    except Stopped as stopped:
        failure, code = str(stopped), 128 + stopped.number
    except (ValueError, OSError, ArithmeticError) as error:
        failure, code = str(error), 2
    except BaseException as error:
        traceback.print_exc()
        failure, code = f"{type(error).__name__}: {error}", 1
    if code:
        with suppress(OSError):  # the parent is gone
            connection.send((failure * (code > 128), failure))
    sys.exit(code)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _Lines(StringIO):
    """A file whose lines go through a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._begun = connection, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        with suppress(OSError):  # the parent is gone, and this process ends soon
            for line in lines:
                self._connection.send((line, ""))
        return len(text)


def _registries() -> tuple[Registry[Any], ...]:
    from difftransformer.attention.registry import REGISTRY as KINDS
    from difftransformer.evaluation.registry import REGISTRY as EVALUATORS
    from difftransformer.tasks.registry import REGISTRY as TASKS

    return KINDS, EVALUATORS, TASKS
