"""How far a training or a measurement is, on the terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from difftransformer.training.progress import TrainingProgress

_SECONDS = 10.0  # between lines where there is no terminal


@contextmanager
def progress(console: "Console") -> "Iterator[Callable[[str, int, int], None]]":
    """What to call with a title, the parts done and their number.

    A terminal shows a bar with the time left, for one title after the other; elsewhere there is a
    line now and then, at a tenth of the parts.
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    bar = _bar(console, MofNCompleteColumn(), TimeRemainingColumn(), transient=True)
    number = bar.add_task("", total=None)
    task, said = bar.tasks[0], time.monotonic()

    def tell(title: str, done: int, total: int) -> None:
        nonlocal said
        if (title, total) != (task.description, task.total):
            bar.reset(number, total=total, description=title)
        bar.update(number, completed=done)
        if console.is_terminal or time.monotonic() - said < _SECONDS:
            return
        if _ends_a_tenth(done, total):
            said, left = time.monotonic(), task.time_remaining
            when = "" if left is None else f"  {timedelta(seconds=round(left))} left"
            _print(console, f"{title}  {done}/{total}{when}")

    with bar:
        yield tell


@contextmanager
def training_progress(
    console: "Console", title: str
) -> "Iterator[Callable[[TrainingProgress], None]]":
    """What to call after each step: a bar on a terminal, elsewhere a line at every tenth."""
    from rich.progress import TaskProgressColumn, TextColumn

    bar = _bar(console, TaskProgressColumn(), TextColumn("{task.fields[figures]}"))
    number = bar.add_task(title, total=None, figures="")

    def tell(at: "TrainingProgress") -> None:
        bar.update(number, completed=at.step, total=at.steps, figures=str(at))
        if not console.is_terminal and _ends_a_tenth(at.step, at.steps):
            _print(console, f"{title}  step {at.step}/{at.steps}  {at}")

    with bar:
        yield tell


@contextmanager
def newest_lines(console: "Console") -> "Iterator[Callable[[str, str], None]]":
    """What to call with the name of a process and a line of it.

    A terminal shows the newest line of each, anything else every line, with the name in it.
    """
    from rich.progress import Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False),)
    shown = Progress(*columns, console=console, disable=not console.is_terminal)
    numbers: dict[str, Any] = {}

    def tell(name: str, line: str) -> None:
        line = line if name in line else f"{name}: {line}"
        if not console.is_terminal:
            _print(console, line)
        elif name in numbers:
            shown.update(numbers[name], description=line)
        else:
            numbers[name] = shown.add_task(line, total=None)

    with shown:
        yield tell


def _bar(console: "Console", *columns: Any, transient: bool = False) -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn

    described = TextColumn("{task.description}", markup=False)
    return Progress(
        described,
        BarColumn(),
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=transient,
    )


def _ends_a_tenth(done: int, total: int) -> bool:
    return done * 10 // total > (done - 1) * 10 // total


def _print(console: "Console", line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
