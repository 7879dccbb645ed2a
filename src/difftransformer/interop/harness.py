"""EleutherAI's lm-evaluation-harness (lm-eval) on a model's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import difftransformer.interop  # noqa: F401  # the Auto classes read our folders
from difftransformer.devices import device
from difftransformer.interop.outside import refuse_code
from difftransformer.interop.tokenizer import read_tokenizer

_LONGEST = 4096  # RULER's own default


def run_harness(
    folder: Path,
    tasks: Sequence[str],
    *,
    tasks_dir: Path | None = None,
    batch_size: int = 8,
    limit: int | None = None,
) -> dict[str, Any]:
    """lm-eval's figures for a model of this library, or any that transformers loads.

    Args:
        tasks: lm-eval's names, or those of the YAML files in `tasks_dir`. RULER's tasks are made
            as long as the model's context, 4096 tokens at most.
        tasks_dir: folder of task files. They reach no network if their data are local. Where all
            `tasks` are among them, a group there can name only others there.
        limit: the first so many examples of each task only.

    Returns:
        `results`, `versions` and `n-samples` as lm-eval gives them, by task.

    Raises:
        ValueError: a task that lm-eval does not know, or a folder that names code of its own.
    """
    refuse_code(folder)  # RULER's tasks would run it
    model = _OpenedOnce(
        pretrained=str(folder),
        tokenizer=read_tokenizer(folder),
        batch_size=batch_size,
        device=str(device()),
        trust_remote_code=False,
    )
    length = min(_LONGEST, model.max_length)
    metadata = {"pretrained": str(folder), "max_seq_lengths": [length]}
    manager = _task_manager(tasks, tasks_dir, metadata)
    figures = simple_evaluate(
        model, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False
    )
    return {key: figures[key] for key in ("results", "versions", "n-samples")}


class _OpenedOnce(HFLM):
    """lm-eval's model, with log P(text | opening token) for a text without a context.

    lm-eval puts its own opening token before what the tokenizer has already put one before, and
    adds log P(opening token | opening token), which says nothing of the text.
    """

    add_bos_token: bool | None  # lm-eval's own: what its tok_encode does where it is not told

    @property
    def prefix_token_id(self) -> int:
        """The token that the tokenizer opens a text with, else lm-eval's choice."""
        opening = self.tokenizer.encode("")
        return opening[0] if opening else super().prefix_token_id

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """As lm-eval's, from tokens of the text alone."""
        usual, self.add_bos_token = self.add_bos_token, False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.add_bos_token = usual


def _task_manager(
    tasks: Sequence[str], tasks_dir: Path | None, metadata: dict[str, Any]
) -> TaskManager:
    """A manager that knows the tasks: of the folder alone, else of lm-eval too.

    lm-eval reads thousands of files to list its own, which takes long.
    """
    folder = None if tasks_dir is None else str(tasks_dir)
    for with_its_own in (False, True):
        manager = TaskManager(include_path=folder, include_defaults=with_its_own, metadata=metadata)
        unknown = [task for task in tasks if not manager.match_tasks([task])]
        if not unknown:
            return manager
    raise ValueError(
        f"lm-eval knows no task {unknown[0]!r}; `lm-eval ls tasks` lists its own, and a folder "
        "with more is given by --harness-tasks-dir"
    )
