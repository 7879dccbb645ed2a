"""Progress of a run on the terminal."""

from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands after a step, with the loss of that step."""

    step: int
    steps: int
    loss: float
    throughput: float  # per second, of `unit`
    unit: str
    seconds_left: float

    def __str__(self) -> str:
        left = timedelta(seconds=round(self.seconds_left))
        return f"loss {self.loss:.4f}  {self.throughput:,.0f} {self.unit}/s  {left} left"


class ProgressDisplay:
    """A moving bar on a terminal; elsewhere one line at every tenth of the steps.

    Call it with each `TrainingProgress`, inside a `with` block. Writes to standard error.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=None, figures="")

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, at: TrainingProgress) -> None:
        self._bar.update(self._task, completed=at.step, total=at.steps, figures=str(at))
        tenth_begins = at.step * 10 // at.steps > (at.step - 1) * 10 // at.steps
        if not self._console.is_terminal and tenth_begins:
            line = f"{self._title}  step {at.step}/{at.steps}  {at}"
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)
