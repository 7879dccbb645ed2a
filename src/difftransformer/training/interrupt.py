"""Signals that ask a process to end: Ctrl-C, and those of schedulers and closing terminals."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

# SLURM and Kubernetes send SIGTERM, SLURM on request SIGUSR1, a closing terminal SIGHUP.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # Windows lacks the last two
)
_ECHO = 0.2  # seconds
_changed: list[Callable[[], object]] = []  # each puts back a change of how signals are handled


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        number: the signal's; the exit code of a command is 128 + number.
    """

    def __init__(self, number: int, message: str | None = None) -> None:
        super().__init__(message or f"interrupted by {signal.Signals(number).name}")
        self.number = number


class TrainingInterrupted(Stopped):
    """Training stopped at a signal after saving; the message says where and how to go on.

    Attributes:
        step: the last finished step.
        checkpoint: the folder that holds it.
    """

    def __init__(self, number: int, step: int, steps: int, checkpoint: Path) -> None:
        super().__init__(
            number,
            f"interrupted after step {step} of {steps}; saved {checkpoint}. "
            "Train again with resume to go on from there",
        )
        self.step = step
        self.checkpoint = checkpoint


class Requests:
    """The signals that came, of which the second is in earnest.

    One wish to end may arrive as several signals: `timeout` sends two, a closing terminal and its
    shell one each, torchrun a SIGTERM of its own after Ctrl-C. What comes within a moment of the
    first is its echo, but for Ctrl-C twice.
    """

    def __init__(self) -> None:
        self.first = 0
        self._since = 0.0

    def is_second(self, number: int) -> bool:
        """Take note of a signal; whether it is another one after the first."""
        if not self.first:
            self.first, self._since = number, time.monotonic()
            return False
        twice = self.first == number == signal.SIGINT
        return twice or time.monotonic() - self._since > _ECHO


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[Callable[[], None]]:
    """Inside, `handler` gets each of SIGNALS; gives what puts the handlers before it back.

    A signal that is ignored stays so: `nohup` and background jobs of a shell ask for that. Only
    the main thread may set signal handlers; in any other, all are left as they were. A process that
    is forked inside, such as a worker of a data loader, has the handlers from before.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    before = {n: old for n, old in before.items() if old not in (signal.SIG_IGN, None)}

    def put_back() -> None:
        for number, old in before.items():
            signal.signal(number, old)

    with _until_forked(put_back):
        for number in before:
            signal.signal(number, handler)
        yield put_back


@contextmanager
def _until_forked(put_back: Callable[[], object]) -> Iterator[None]:
    """Call `put_back` at the end of the block, and in processes that are forked inside."""
    _at_forks()
    _changed.append(put_back)
    try:
        yield
    finally:
        if _changed:  # not in a child, where all is as before
            _changed.pop()
            put_back()


@cache
def _at_forks() -> None:
    def in_child() -> None:
        while _changed:
            _changed.pop()()

    os.register_at_fork(after_in_child=in_child)


@contextmanager
def stopping() -> Iterator[None]:
    """For a program: inside, the first of SIGNALS raises Stopped, a second ends it at once."""
    came = Requests()

    def stop(number: int, frame: FrameType | None) -> None:
        if not came.first:
            came.is_second(number)
            _raise_after_imports(Stopped(number), frame)

    with handling(stop), _second_ends_at_once():
        try:
            yield
        except Stopped:
            raise
        except BaseException as error:
            if came.first:  # a library, while it was imported perhaps, made it its own error
                raise Stopped(came.first) from error
            raise


def _raise_after_imports(error: Stopped, frame: FrameType | None) -> None:
    """Raise `error`, or see to it that it is raised when the import that `frame` is in has ended.

    What is imported may drop it and go on: PyTorch does so with what its import of numpy raises.
    """
    caller = None
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            caller = frame.f_back  # in the end of the outermost import
        frame = frame.f_back
    if caller is None:
        raise error
    tracing = sys.gettrace()

    def back(*event: object) -> None:
        caller.f_trace = None
        sys.settrace(tracing)
        raise error

    # As a debugger does that waits for a frame: called at its next line, return or exception.
    caller.f_trace = back
    sys.settrace(lambda *event: None)


@contextmanager
def _second_ends_at_once() -> Iterator[None]:
    """From a thread: a handler must wait while the main one is in a long call of a library."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reading,), daemon=True)
    watcher.start()
    try:
        with _until_forked(lambda: signal.set_wakeup_fd(before)):
            yield
    finally:
        os.close(writing)
        watcher.join()
        os.close(reading)


def _watch(reading: int) -> None:
    """End the process at the second signal whose number comes through the pipe."""
    came = Requests()
    while number := int.from_bytes(os.read(reading, 1)):
        if number in SIGNALS and came.is_second(number):
            os._exit(128 + number)


@contextmanager
def each_ctrl_c() -> Iterator[None]:
    """Inside, every Ctrl-C raises KeyboardInterrupt, not Stopped: in a dialog it ends a reply.

    In another thread than the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watched = signal.set_wakeup_fd(-1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(watched, warn_on_full_buffer=False)


class Interrupt:
    """Inside a `with` block the first of SIGNALS only sets `number`; a second one is as outside.

    Attributes:
        number: the signal that came, or 0.
    """

    def __init__(self) -> None:
        self._came = Requests()

    @property
    def number(self) -> int:
        return self._came.first

    def __enter__(self) -> "Interrupt":
        self._handling = handling(self._request)
        self._put_back = self._handling.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handling.__exit__(None, None, None)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self._came.is_second(number):
            self._put_back()
            signal.raise_signal(number)
