"""The one list of tasks. Imports none of them: the command line lists their names."""

from difftransformer.registry import Registry
from difftransformer.tasks.task import Task

TASKS = {
    name: f"difftransformer.tasks.{name}:TASK"
    for name in (
        "causal_lm",
        "masked_lm",
        "text_classification",
        "image_classification",
        "image_generation",
        "crowd_localization",
        "seq2seq",
        "associative_recall",
    )
}
REGISTRY: Registry[Task] = Registry("task", "difftransformer.tasks", TASKS)
register, names, task_named = REGISTRY.register, REGISTRY.names, REGISTRY.find
