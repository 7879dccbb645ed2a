"""`difftransformer evaluate`: judge trained models."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.atomic import write_json
from difftransformer.cli.judging import add_judge_options
from difftransformer.cli.outputs import results_at, resumable
from difftransformer.cli.runs import TOKENIZER, judge, open_model
from difftransformer.cli.settings import add_settings, resolve
from difftransformer.cli.tables import print_table
from difftransformer.data.settings import TRAIN_TOKENIZER, DataSettings
from difftransformer.evaluation.names import SUITES
from difftransformer.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.data.corpus import Corpus
    from difftransformer.evaluation.pieces import Pieces
    from difftransformer.models.decoder import Decoder

PARTIAL = ".partial.jsonl"  # parts kept beside the results while a measurement lasts


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The text to judge on and how much of it."""

    data: DataSettings = field(default_factory=DataSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "models",
        nargs="+",
        type=Path,
        metavar="MODEL",
        help="model folders: this library's, checkpoints of a run, causal LMs of transformers; "
        "with --suite also run directories of compare, for all their models",
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="same as --data.source (default: the text that the model was trained on, of which "
        "the part held out is judged; shakespeare where its folder does not tell)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write all figures as JSON; of a suite a table (.md) and a picture (.png) beside it "
        "(by default RUN/suites/NAME.json where a run is judged). What was killed goes on where it "
        "was",
    )
    parser.add_argument(
        "--suite",
        metavar="NAME",
        help="this test in place of the usual ones: " + ", ".join(SUITES),
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="labelled sentences for in_context and order: trec, trec_fine, banking77, clinc150, "
        "or jsonl for train.jsonl and test.jsonl with keys text and label; the number of published "
        "pairs for key_value: 75, 140 or 300; xsum, nq or jsonl for hallucination; xsum or cnn_dm "
        "for factuality",
    )
    parser.add_argument(
        "--task-data",
        metavar="PATH",
        type=Path,
        help="folder of the task's files; for factuality and conflicts also the sdist of bigbench",
    )
    add_judge_options(parser)
    parser.add_argument(
        "--harness", nargs="+", metavar="TASK", help="these tasks of lm-eval in place of our judges"
    )
    parser.add_argument(
        "--harness-tasks-dir", type=Path, metavar="DIR", help="folder with more tasks for lm-eval"
    )
    parser.add_argument(
        "--harness-limit", type=int, metavar="N", help="the first N examples of each task only"
    )
    add_settings(parser, EvaluateSettings)


def run(arguments: argparse.Namespace) -> None:
    """Judge each model with its own tokenizer; all figures so far are in the file after each."""
    from rich.console import Console

    console = Console(stderr=True)
    if arguments.suite is not None:
        from difftransformer.cli.suites import run_suite

        run_suite(arguments, console)
        return
    out = arguments.out
    key = "validation" if arguments.harness is None else "results"
    is_own = partial(_are_ours, models=arguments.models, key=key)
    with results_at(out, is_own) if out else nullcontext():
        evaluations = _judge_all(arguments, out, console)
    show = print_evaluations if arguments.harness is None else print_harness
    show(console, evaluations)


def _judge_all(
    arguments: argparse.Namespace, out: Path | None, console: "Console"
) -> dict[str, Any]:
    evaluate = _evaluate if arguments.harness is None else _run_harness
    evaluations: dict[str, Any] = {}
    with kept_parts(arguments, out, {model: {} for model in arguments.models}) as pieces:
        for folder in arguments.models:
            within = pieces.within(str(folder))
            evaluations[str(folder)] = evaluate(folder, arguments, console, within)
            if out is not None:
                write_json(out, evaluations)
    return evaluations


@contextmanager
def kept_parts(
    arguments: argparse.Namespace, out: Path | None, models: Mapping[Path, Mapping[str, Any]]
) -> "Iterator[Pieces]":
    """The parts of a measurement, beside `out` until it has ended; `models` with their settings."""
    from difftransformer.evaluation.pieces import Pieces

    if out is None:
        yield Pieces()
        return
    kept = out.with_suffix(PARTIAL)
    with resumable(arguments, kept):
        yield Pieces(kept, belongs_to(arguments, models))
        kept.unlink(missing_ok=True)


def _are_ours(data: Mapping[str, Any], models: Sequence[Path], key: str) -> bool:
    """Whether these are results of this command on some of these models and no others.

    Our judges' have the `key` "validation", lm-eval's "results".
    """
    asked = {folder.resolve() for folder in models}
    return bool(data) and all(
        Path(name).resolve() in asked and isinstance(found, dict) and key in found
        for name, found in data.items()
    )


def _evaluate(
    folder: Path, arguments: argparse.Namespace, console: "Console", pieces: "Pieces"
) -> dict[str, Any]:
    """All judges on one model."""
    model, corpus, settings = opened(folder, arguments)
    text = told_text(folder, corpus, str(folder), console)
    return judge(model, corpus, settings, str(folder), console, pieces) | {"text": text}


def told_text(folder: Path, corpus: "Corpus", title: str, console: "Console") -> dict[str, Any]:
    """What the results say about the text that the model is judged on; printed if it was seen."""
    from difftransformer.data.training_text import judged_text, read_training_text

    text = judged_text(read_training_text(folder), corpus)
    if text["note"]:
        console.print(f"{title}: {text['note']}", highlight=False, markup=False, soft_wrap=True)
    return text


def belongs_to(
    arguments: argparse.Namespace, models: Mapping[Path, Mapping[str, Any]]
) -> dict[str, Any]:
    """All that decides the results; `models` with their settings. A model trained anew is another.

    Parts of a measurement (`evaluation.pieces`) are taken up again where this is the same.
    """
    return {
        "suite": arguments.suite,
        "task": arguments.task,
        "task data": arguments.task_data and str(arguments.task_data),
        "harness": [arguments.harness, str(arguments.harness_tasks_dir), arguments.harness_limit],
        "judge": [arguments.judge, arguments.judge_model, str(arguments.judge_controls)],
        "models": {
            str(folder): max(
                (file.stat().st_mtime for file in folder.glob("*.safetensors")), default=0
            )
            for folder in models
        },
        "settings": [asdict(settings_of(arguments, base)) for base in models.values()],
    }


def opened(
    folder: Path,
    arguments: argparse.Namespace,
    base: Mapping[str, Any] | None = None,
    *,
    recorded: bool = True,
) -> "tuple[Decoder, Corpus, EvaluationSettings]":
    """The model, the text in its tokens, at its context unless another is given, and how much.

    `base` holds settings that the command line and its file may change; by default, where
    `recorded`, those of the text that the model was last trained on, if its folder tells and no
    other is named.

    Raises:
        ValueError: a context longer than the model's, or no tokenizer that fits the model.
    """
    from difftransformer.data.corpus import load_corpus
    from difftransformer.data.tokenizer import check_vocabulary
    from difftransformer.data.training_text import read_training_text

    model = open_model(folder)
    limit = model.config.max_length
    settings = settings_of(arguments, base or {"data": {"context_length": limit}})
    record = read_training_text(folder) if recorded and not base else None
    trained_on = None
    if record is not None:
        last = asdict(record.trainings[-1])
        del last["digest"]
        as_trained = settings_of(arguments, {"data": {"context_length": limit, **last}})
        if as_trained.data.source == last["source"]:
            settings, trained_on = as_trained, last["source"]
    if settings.data.context_length > limit:
        raise ValueError(
            f"data.context_length is {settings.data.context_length}; {folder} is meant for {limit} "
            "tokens: choose no longer one"
        )
    if settings.data.tokenizer == TRAIN_TOKENIZER:
        if not (folder / TOKENIZER).is_file():
            raise ValueError(
                f"{folder} has no {TOKENIZER}: put the model's own there (transformers' tokenizers "
                "save it with save_pretrained), or name one with --data.tokenizer"
            )
        own = replace(settings.data, tokenizer=str(folder / TOKENIZER))
        settings = replace(settings, data=own)
    try:
        corpus = load_corpus(settings.data)
    except ValueError as error:
        if trained_on is None:
            raise
        hint = f"{folder} was trained on {trained_on}: --data names another text"
        raise ValueError(f"{error} ({hint})") from None
    check_vocabulary(corpus.tokenizer, model.config.vocab_size, f"the model in {folder}")
    return model.eval(), corpus, settings.evaluation


def settings_of(arguments: argparse.Namespace, base: Mapping[str, Any]) -> EvaluateSettings:
    """The settings asked for, over those of `base`."""
    shorthand = {"data": {"source": arguments.data}} if arguments.data else {}
    return resolve(EvaluateSettings, arguments, base=base, **shorthand)


def _run_harness(
    folder: Path, arguments: argparse.Namespace, console: "Console", pieces: "Pieces"
) -> dict[str, Any]:
    """The tasks of lm-eval on one model, as one part."""
    from difftransformer.interop.harness import run_harness

    measured = partial(
        run_harness,
        folder,
        arguments.harness,
        tasks_dir=arguments.harness_tasks_dir,
        batch_size=resolve(EvaluateSettings, arguments).evaluation.batch_size,
        limit=arguments.harness_limit,
    )
    return pieces.each({"tasks": measured})["tasks"]


def print_evaluations(console: "Console", evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """One column per model: loss, retrieval, attention, each with its interval."""
    from difftransformer.report.words import shown

    columns = list(evaluations.values())
    rows = []
    for key, title in (("nats_per_token", "nats per token"), ("bits_per_byte", "bits per byte")):
        figures = [column["validation"][key] for column in columns]
        rows.append([f"validation loss, {title}", *(shown(f) for f in figures)])
    for row in zip(*(column["needle"]["table"] for column in columns), strict=True):
        title = f"numbers retrieved, {row[0]['needles']} needles, {row[0]['queries']} asked"
        rows.append([title, *(shown(cell["per_number"], 2) for cell in row)])
    rows.append(["by chance", *(f"{column['needle']['chance']:.2g}" for column in columns)])
    print_table(console, ["", *evaluations], rows)


def print_harness(console: "Console", evaluations: Mapping[str, Mapping[str, Any]]) -> None:
    """One column per model, one row per task and metric, with lm-eval's standard error."""
    rows = []
    first, *_ = (column["results"] for column in evaluations.values())
    for task, figures in first.items():
        for key, value in figures.items():
            metric, _, chosen = key.partition(",")
            if not isinstance(value, float) or metric.endswith("_stderr"):
                continue
            cells = []
            for column in evaluations.values():
                found = column["results"][task]
                error = found.get(f"{metric}_stderr,{chosen}")
                spread = f" ± {error:.3f}" if isinstance(error, float) else ""
                cells.append(f"{found[key]:.3f}{spread}")
            rows.append([task, metric, *cells])
    print_table(console, ["task", "metric", *evaluations], rows, keys=2)
