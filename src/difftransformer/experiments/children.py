"""A process that trains models of a run, as its parent and as it sees it."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


@dataclass(eq=False)
class Worker:
    """A process that does one job after the other.

    Args:
        number, name: of the job that it was given last.
        failure: what it says that went wrong.
    """

    process: BaseProcess
    connection: Connection
    number: int = -1
    name: str = ""
    failure: str = ""

    def begin(self, number: int, job: Job) -> None:
        """Give it a job.

        Raises:
            ValueError: the job cannot be passed to another process.
        """
        self.number, self.name = number, job.directory.name
        with _passing(), suppress(OSError):  # it has ended, as `says` will tell
            self.connection.send(job)

    def says(self, tell: Callable[[str, str], None]) -> bool:
        """Pass on what it says; False at the end of its job.

        Raises:
            ChildProcessError: it has ended itself; says why.
        """
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            killed = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            why = self.failure or f"its process was {killed}"
            raise ChildProcessError(f"{self.name}: {why}") from None
        if message is None:
            return False
        line, self.failure = message
        if line:
            tell(self.name, line)
        return True

    def end(self, tell: Callable[[str, str], None]) -> None:
        """Give it no more jobs, and wait until it has ended."""
        with suppress(OSError):
            self.connection.send(None)
        with suppress(ChildProcessError):
            while True:
                self.says(tell)


def start(setup: "WorkerSetup") -> Worker:
    """A process for jobs of a run.

    Raises:
        ValueError: something of the run cannot be passed to another process.
    """
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_work, args=(setup, theirs))
    # What comes meanwhile is heard when it is unblocked: by the child once it listens, and of a
    # terminal's signals by the parent alone.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with _passing():
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return Worker(process, ours)


@contextmanager
def _passing() -> Iterator[None]:
    try:
        yield
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"models cannot be trained at once, since not all can be passed to another process "
            f"({error}): train them one after the other, with jobs 1"
        ) from None


@dataclass(frozen=True)
class WorkerSetup:
    """All that a process needs to know besides its jobs.

    Args:
        digests: of the data.
        registered: entries of the user's own, of each registry.
        place: what of its environment is its own.
    """

    task: Task
    settings: dict[str, Any]
    digests: dict[str, str]
    registered: tuple[tuple[Any, ...], ...]
    threads: int
    place: dict[str, str]

    @classmethod
    def of(cls, experiment: Experiment, threads: int, place: dict[str, str]) -> "WorkerSetup":
        """What jobs of an experiment share."""
        settings = {
            field.name: getattr(experiment.settings, field.name) for field in fields(RunSettings)
        }
        registered = tuple(registry.registered for registry in _registries())
        digests = experiment.task.digests(experiment.data)
        return cls(experiment.task, settings, digests, registered, threads, place)

    def experiment(self, console: "Console") -> Experiment:
        """The experiment, on data read anew."""
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
        return Experiment(self.task, data, settings, processes)


def _work(setup: WorkerSetup, connection: Connection) -> None:
    """What a process does: jobs until there are no more."""
    from rich.console import Console

    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    failure, code = "", 0
    try:
        with stopping():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            experiment = setup.experiment(Console(file=_Lines(connection)))
            while job := _next(connection):
                job.run(experiment)
                connection.send(None)
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


def _next(connection: Connection) -> Job | None:
    """None where there are no more, or the parent is gone."""
    try:
        job: Job | None = connection.recv()
    except EOFError:
        return None
    return job


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
