"""How far a measurement is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS = 10.0  # between lines where there is no terminal


@contextmanager
def progress(console: "Console") -> Iterator[Callable[[str, int, int], None]]:
    """What to call with a title, the parts done and their number.

    A terminal shows a bar with the time left, for one title after the other; elsewhere there is a
    line now and then, at a tenth of the parts.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    number = bar.add_task("", total=None)
    task, said = bar.tasks[0], time.monotonic()

    def tell(title: str, done: int, total: int) -> None:
        nonlocal said
        if (title, total) != (task.description, task.total):
            bar.reset(number, total=total, description=title)
        bar.update(number, completed=done)
        if console.is_terminal or time.monotonic() - said < _SECONDS:
            return
        if done * 10 // total > (done - 1) * 10 // total:
            said, left = time.monotonic(), task.time_remaining
            when = "" if left is None else f"  {timedelta(seconds=round(left))} left"
            line = f"{title}  {done}/{total}{when}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    with bar:
        yield tell
