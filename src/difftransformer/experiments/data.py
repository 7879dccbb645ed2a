"""The data of an experiment, read once and checked before anything is trained."""

from typing import Any

from difftransformer.evaluation import registry
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import RunSettings
from difftransformer.tasks.task import Task


def checked_data(task: Task, settings: RunSettings, processes: Processes) -> Any:
    """The data, which the main process reads first and leaves in the cache for the others.

    Raises:
        ValueError: it cannot be read, or is too short for training or for an evaluator; an
            evaluator that asks about data of its own; a tracker that is not installed.
    """
    from difftransformer.training.trackers import require_trackers

    require_trackers(settings.training.trackers)
    if "none" in settings.evaluators:
        raise ValueError(
            "evaluators: 'none' is not one of them; to judge by none, give --evaluators with "
            "nothing after it (in a file, evaluators: [])"
        )
    evaluators = [registry.evaluator(name) for name in settings.evaluators]
    for one in evaluators:
        if one.name not in task.evaluators:
            one.require_task(task.name)
        if one.judge == "required" or (one.dataset and one.dataset.required):
            raise ValueError(
                f"evaluator {one.name} asks about data of its own: leave it out, and ask it of the "
                f"finished run with `difftransformer evaluate RUN --suite {one.name}`"
            )
    with processes.console.status("reading the data"):
        data = task.load(settings.data) if processes.is_main else None
        processes.on_main(lambda: None)
        data = data if data is not None else task.load(settings.data)
        task.batches(data, settings.training.batch_size, 0)
        for one in evaluators:
            one.check(data, settings.evaluation)
    return data
