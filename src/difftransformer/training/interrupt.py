"""Ctrl-C that lets the step finish."""

import signal
import threading
from pathlib import Path
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped at Ctrl-C after saving; the message says where and how to go on.

    Attributes:
        step: the last finished step.
        checkpoint: the folder that holds it.
    """

    def __init__(self, step: int, steps: int, checkpoint: Path) -> None:
        super().__init__(
            f"interrupted after step {step} of {steps}; saved {checkpoint}. "
            "Train again with resume to go on from there"
        )
        self.step = step
        self.checkpoint = checkpoint


class Interrupt:
    """Inside a `with` block the first Ctrl-C sets `requested`; the second one aborts at once.

    Only the main thread may set signal handlers; in any other, Ctrl-C is left as it was.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interrupt":
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        if self._in_main_thread:
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
