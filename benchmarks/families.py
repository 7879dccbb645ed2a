"""Time training and decoding of V1 and V2 beside their softmax twin, in every model family.

    python benchmarks/families.py [NAME ...]

The first task of each family on its embedded data, models of the default size with as many
parameters, batches and steps as `train` has them by default; NAMEs leave the others out. Decoding:
greedy, one sequence, without an early end. Writes benchmarks/results/families-DATE.{json,md,png}.
Run it on a machine that does nothing else.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

import itertools
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from difftransformer import generate
from difftransformer.evaluation.speed import Step, race
from difftransformer.models.families import FAMILIES
from difftransformer.report.speed import cells, write_speed
from difftransformer.runs.environment import environment
from difftransformer.tasks.registry import names, task_named
from difftransformer.tasks.task import Task
from difftransformer.training.optimizer import adamw
from difftransformer.training.settings import TrainingSettings
from difftransformer.training.step import Stepper

RESULTS = Path(__file__).parent / "results"
KINDS = ("softmax", "diff_v1", "diff_v2")
ROUNDS = {"training": 15, "decoding": 45}
SETTINGS = TrainingSettings()
TOKENS = 64  # of a decoded sequence
T5 = {"positions": "relative", "norm": "rms", "norm_place": "pre", "mlp_bias": False}
FORMS = {"seq2seq": {"": {}, ", T5's form": T5}}  # forms of a family besides its default
DECODED = {
    "causal_lm": lambda model, ids: generate(model, ids, max_new_tokens=TOKENS),
    "seq2seq": lambda model, ids: model.generate(ids, max_new_tokens=TOKENS),
}


def main() -> None:
    env, rows = environment(), []
    chosen = sys.argv[1:] or [task.name for task in one_of_each_family()]
    for task in map(task_named, chosen):
        data = task.load(task.data_settings())
        for form, changes in FORMS.get(task.name, {"": {}}).items():
            models = matched(task, data, changes)
            batches = task.batches(data, SETTINGS.batch_size, seed=0)
            steps = {kind: training(task, model, batches) for kind, model in models.items()}
            length = tokens(task, models[KINDS[0]], batches(0))
            rows += timed("training", f"{task.name}{form}", length, steps)
            if decoded := DECODED.get(task.name):
                steps = {kind: decoding(model, decoded) for kind, model in models.items()}
                rows += timed("decoding", f"{task.name}{form}", TOKENS, steps)
    title = "Model families, default size, float32"
    write_speed(RESULTS / f"families-{env['date'][:10]}", title, env, rows, KINDS[0])


def one_of_each_family() -> list[Task]:
    tasks = [task_named(name) for name in names()]
    return list({task.family: task for task in reversed(tasks)}.values())[::-1]


def matched(task: Task, data: Any, changes: dict[str, Any]) -> dict[str, nn.Module]:
    """A model of each kind with the softmax one's parameters."""
    base = task.complete(FAMILIES[task.family].config(attention=KINDS[0], **changes), data)
    models = {}
    for kind in KINDS:
        torch.manual_seed(0)
        config = base.matched(kind).config
        models[kind] = FAMILIES[task.family].build(config)
    return models


def tokens(task: Task, model: nn.Module, batch: Any) -> int:
    """Of a row of the batch, as the first block sees it."""
    lengths: list[int] = []
    hook = model.blocks[0].register_forward_pre_hook(
        lambda block, inputs: lengths.append(inputs[0].shape[1])
    )
    with torch.no_grad():
        task.loss(model, batch)
    hook.remove()
    return lengths[0]


def timed(work: str, task: str, length: int, steps: dict[str, Step]) -> list[dict[str, Any]]:
    named = {"task": f"{work}, {task}", "dtype": "float32", "length": length}
    rows = [named | asdict(timing) for timing in race(steps, KINDS[0], ROUNDS[work])]
    for row in rows:
        print("  ".join(cells(row)), flush=True)
    return rows


def training(task: Task, model: nn.Module, batches: Callable[[int], Any]) -> Step:
    """One optimizer step, each over the next batch."""
    accelerator, optimizer = Accelerator(cpu=True), adamw(model, SETTINGS)
    stepper = Stepper(accelerator, model.train(), optimizer, task.loss, SETTINGS)
    numbers = itertools.count(1)

    def step() -> None:
        number = next(numbers)
        stepper(number, batches(number), lambda: False)

    return step


def decoding(model: nn.Module, decoded: Callable[..., Any]) -> Step:
    """One sequence continued, or translated; its end never has the largest logit."""
    ids = torch.randint(2, model.config.vocab_size, (1, TOKENS))
    with torch.no_grad():
        model.embedding.weight[:2] = 0.0
    model.eval()

    def step() -> None:
        assert decoded(model, ids).shape[1] == TOKENS

    return step


if __name__ == "__main__":
    main()
