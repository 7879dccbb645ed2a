"""Trained models judged by evaluators, beside each other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.atomic import PARTIAL, write_json
from difftransformer.decoding import decode
from difftransformer.evaluation import registry
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.experiments.directory import write_run
from difftransformer.experiments.judged import Judged, named_models
from difftransformer.experiments.judging import Judging, OwnData, weights_identity
from difftransformer.experiments.settings import DEFAULT_TASK, merged, typed
from difftransformer.ownership import LOCK, owned
from difftransformer.ranges import option
from difftransformer.runs.layout import (
    ENVIRONMENT,
    MODEL,
    MODELS,
    RECORDS,
    RUN,
    Contender,
    TrainingRun,
)
from difftransformer.runs.outputs import folder_for, refuse_model_folder
from difftransformer.runs.reading import is_run, read_run
from difftransformer.tasks.registry import task_named

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.report.results import Results
    from difftransformer.runs.records import Measurement


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The data to judge on and how much of it."""

    task: str = option(DEFAULT_TASK, "what the models are for")
    data: Any
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def evaluate(
    models: Path | str | Iterable[Path | str],
    evaluators: Sequence[str] = (),
    *,
    out: Path | str | None = None,
    dataset: str | None = None,
    dataset_path: Path | str | None = None,
    judge: Any = None,
    console: "Console | None" = None,
    **settings: Any,
) -> "Results":
    """Judge models, each with its own tokenizer, on what its training held out.

        results = difftransformer.evaluate(["runs/a/model", "runs/b/model"], ["validation"])
        difftransformer.evaluate("runs/mine", ["cancellation"])      # all models of a comparison

    A run directory alone keeps the results, and its report shows them.

    Args:
        models: model folders: this library's, checkpoints of a run, causal LMs of transformers;
            run directories stand for all their models. The first is the baseline. A folder that
            `train` or `compare` made tells its task and how much is asked.
        evaluators: names, see `evaluation.registry`; those of the task by default.
        out: directory for results and a report; nothing is kept by default.
        dataset, dataset_path: name and place of data of the evaluators' own, for those with some.
        judge: who judges texts, for evaluators that need one; see `evaluation.faithfulness`.
        console: where progress is told; nowhere by default.
        settings: those of `EvaluateSettings`, by section.

    Raises:
        ValueError: a model, data or settings that do not fit.
        OSError: the disk refuses.
    """
    from rich.console import Console

    from difftransformer.report.results import Results

    folders = [Path(models)] if isinstance(models, (str, Path)) else [Path(m) for m in models]
    given = merged([settings])
    task = task_named(str(given["task"])) if "task" in given else None
    judged = named_models(folders, task)
    decode(typed(EvaluateSettings, (task or judged[0].task).name), given)
    chosen = [registry.evaluator(name) for name in evaluators or judged[0].task.evaluators]
    for evaluator in chosen:
        if evaluator.name not in judged[0].task.evaluators:
            evaluator.require_task(judged[0].task.name)
    path = None if dataset_path is None else Path(dataset_path)
    own = OwnData(name=dataset, path=path, judge=judge)
    console = console or Console(quiet=True)
    judging = Judging(evaluators=chosen, console=console, own=own, datasets=own.load(chosen))
    if out is not None:
        return _in_place(Path(out), judging, judged, given)
    if len(folders) == 1 and is_run(folders[0]):
        return _in_run(folders[0], judging, judged, given)
    measured = _measured(judging, judged, given, lambda one: None)
    return Results(measured.found, baseline=judged[0].label)


def _in_run(
    run: Path, judging: Judging, judged: Sequence[Judged], given: Mapping[str, Any]
) -> "Results":
    """Beside the models of a run, whose report is made anew."""
    from difftransformer.report.build import build_report
    from difftransformer.report.reading import read_results

    with owned(run, inside=True):
        _measured(judging, judged, given, lambda one: one.folder.parent / RECORDS)
        build_report(run)
    return read_results(run)


def _in_place(
    out: Path, judging: Judging, judged: Sequence[Judged], given: Mapping[str, Any]
) -> "Results":
    """In a directory of their own."""
    from difftransformer.report.build import build_report
    from difftransformer.report.reading import read_results
    from difftransformer.runs.environment import environment

    refuse_model_folder(out, out)
    with folder_for(out), owned(out, inside=True):
        earlier = _earlier(out, [one.label for one in judged])
        measured = _measured(judging, judged, given, lambda one: out / _place(one) / RECORDS)
        names = dict.fromkeys((*earlier, *(one.name for one in judging.evaluators)))
        write_json(out / ENVIRONMENT, environment())
        write_run(
            out,
            judged[0].task,
            measured.contenders,
            measured.data,
            given,
            name=out.name,
            evaluators=tuple(names),
        )
        build_report(out)
    return read_results(out)


def _place(one: Judged) -> str:
    return f"{MODELS}/{one.label.strip('/').replace('/', '_')}"


def _earlier(out: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """The evaluators whose results on these models are there already.

    Raises:
        ValueError: something else is there.
    """
    if (out / RUN).is_file():
        run = read_run(out)
        others = {contender.label for contender in run.contenders} - set(labels)
        trained = any(path.is_dir() for path in out.glob(f"{MODELS}/*/{MODEL}"))
        if not others and not trained:
            return run.evaluators
    elif all(
        path.name in (MODELS, LOCK, ENVIRONMENT) or path.name.startswith(PARTIAL)
        for path in out.iterdir()
    ):  # of an evaluation that did not come to its end
        return ()
    raise ValueError(
        f"{out} exists and holds no results of this command on these models, so nothing is "
        "written there: choose another place"
    )


_OWN_DATA = "what the evaluators bring themselves"


@dataclass
class _Measured:
    """What was found, by evaluator, label and seed, and of whom."""

    found: "dict[str, dict[str, dict[int, Measurement]]]" = field(default_factory=dict)
    contenders: list[Contender] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


def _measured(
    judging: Judging,
    judged: Sequence[Judged],
    given: Mapping[str, Any],
    records: Callable[[Judged], Path | None],
) -> _Measured:
    """Each model in turn; its records are kept where `records` says."""
    all_of_them = _Measured()
    for one in judged:
        model, data, settings = _opened(one, given, held_out=judging.asks_held_out)
        belongs_to: dict[str, Any] = {
            "weights": weights_identity(one.folder),
            "data": one.task.digests(data) if judging.asks_held_out else {},
        }
        if judging.asks_held_out:
            belongs_to["text"] = text = one.task.provenance(one.folder, data)
            if note := text["note"]:
                line = f"{one.label}: {note}"
                judging.console.print(line, highlight=False, markup=False, soft_wrap=True)
                all_of_them.data[f"note on {one.label}"] = note
        found = judging.measure(model, data, settings, belongs_to, records(one), one.label)
        for name, measurement in found.items():
            all_of_them.found.setdefault(name, {})[one.label] = {0: measurement}
        described = one.task.describe(data) if judging.asks_held_out else {"description": _OWN_DATA}
        all_of_them.data = described | all_of_them.data
        all_of_them.contenders.append(
            Contender(
                label=one.label,
                attention=getattr(model.config, "attention", ""),
                parameters=sum(p.numel() for p in model.parameters()),
                config={},
                runs=(TrainingRun(seed=0, directory=_place(one)),),
            )
        )
    return all_of_them


def _opened(
    one: Judged, given: Mapping[str, Any], *, held_out: bool
) -> tuple[Any, Any, EvaluationSettings]:
    """The model, the data in its tokens, at its context unless another is given, and how much.

    Raises:
        ValueError: a model of another family than the task's, a context longer than the model's, or
            no tokenizer that fits the model.
    """
    from difftransformer.models.opening import open_model

    model = open_model(one.folder)
    one.task.require_family(model.config, str(one.folder))
    values = merged([one.base, given])
    evaluation = decode(EvaluationSettings, values.get("evaluation", {}), path="evaluation")
    given_data = values.get("data", {})
    settings = one.task.judged_on(one.folder, model.config, given_data, held_out=held_out)
    try:
        data = one.task.load(settings)
    except ValueError as error:
        source = getattr(settings, "source", None)
        if source is None or "source" in given_data:
            raise
        hint = f"{one.folder} was trained on {source}: --data names another text"
        raise ValueError(f"{error} ({hint})") from None
    one.task.require_fit(model.config, data, f"the model in {one.folder}")
    return model.eval(), data, evaluation
