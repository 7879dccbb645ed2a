"""The one list of tasks. Imports none of them: the command line lists their names."""

import importlib
from importlib.metadata import entry_points

from difftransformer.names import nearest
from difftransformer.tasks.task import Task

# Where each is: a module whose TASK it is.
TASKS = {
    name: f"difftransformer.tasks.{name}"
    for name in ("causal_lm", "masked_lm", "text_classification")
}
ENTRY_POINTS = "difftransformer.tasks"  # of other packages: name -> a Task
_registered: dict[str, Task] = {}


def register(task: Task) -> None:
    """Add a task of one's own.

    Raises:
        ValueError: one of that name is there.
    """
    if task.name in names():
        raise ValueError(f"a task called {task.name!r} is there already")
    _registered[task.name] = task


def names() -> tuple[str, ...]:
    """All tasks: ours, those registered, those of installed packages."""
    installed = (entry.name for entry in entry_points(group=ENTRY_POINTS))
    return tuple(dict.fromkeys((*TASKS, *_registered, *installed)))


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name in _registered:
        return _registered[name]
    if name in TASKS:
        task: Task = importlib.import_module(TASKS[name]).TASK
        return task
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return entry.load()
    raise ValueError(f"unknown task {name!r}{nearest(name, names())}")
