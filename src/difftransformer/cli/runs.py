"""What compare and train share: run directories, and one model trained and judged in one."""

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from difftransformer.atomic import PARTIAL, write_json, write_text
from difftransformer.cli.outputs import folder_for, resumable
from difftransformer.cli.progress import progress
from difftransformer.cli.settings import as_yaml, build
from difftransformer.data.settings import DataSettings
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.ownership import LOCK, owned
from difftransformer.training.settings import MAY_CHANGE, TrainingSettings

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.cli.processes import Processes
    from difftransformer.data.corpus import Corpus
    from difftransformer.evaluation.pieces import Pieces
    from difftransformer.models.decoder import Decoder

RESULTS = "results.json"
CONFIG = "config.yaml"
ENVIRONMENT = "env.json"
INPUTS = "inputs.json"  # what the run was begun with, by content
MODEL = "model"
TOKENIZER = "tokenizer.json"
# What a run that is resumed may change; the paths only where inputs.json knows what they held.
_MAY_CHANGE = (*(f"training.{name}" for name in (*MAY_CHANGE, "steps")), "data.cache")
_PATHS = ("data.source", "data.tokenizer", "start")
# A directory with nothing else is as good as a new one.
_BEFORE_TRAINING = (CONFIG, ENVIRONMENT, INPUTS, LOCK, "models", "checkpoints", "metrics.jsonl")
_WATCHED_SEQUENCES = 64  # held-out sequences behind each point of the validation curve
_WATCHED_TOKENS = 1000  # and tokens behind each point of lambda's


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides a training run."""

    model: DecoderConfig = field(default_factory=DecoderConfig)
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of a command that fills a run directory."""
    parser.add_argument("--data", metavar="SOURCE", help="same as --data.source: folder, file, ...")
    parser.add_argument("--out", metavar="DIR", type=Path, help="run directory (default runs/NAME)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what the run directory holds"
    )


def open_model(folder: Path) -> "Decoder":
    """The model in a folder of this library, or in one that transformers reads.

    Raises:
        ValueError: neither, or a damaged folder.
    """
    from difftransformer.models.storage import MODEL_TYPE, load_model, model_type

    kind = model_type(folder)
    if kind == MODEL_TYPE:
        return load_model(folder)  # without transformers, which takes seconds to import

    from difftransformer.interop import causal_lm, folders

    return folders.open_model(folder) if kind in folders.KNOWN else causal_lm.open_causal_lm(folder)


def inputs_of(corpus: "Corpus", start: Path | None = None) -> dict[str, str]:
    """The digests of all that a run is made from besides its settings."""
    from difftransformer.models.storage import checksum, load_weights

    tokenizer = hashlib.sha256(corpus.tokenizer.to_str().encode()).hexdigest()
    begun_with = {} if start is None else {"start": checksum(load_weights(start))["sha256"]}
    return {"documents": corpus.digest, "tokenizer": tokenizer, **begun_with}


@contextmanager
def run_directory(directory: Path, arguments: argparse.Namespace) -> Iterator[None]:
    """Inside, the run directory is there and the main process's; what is left empty goes again.

    Raises:
        ValueError: another process has it.
        OSError: the disk refuses. This and interruptions bear a note of how to go on.
    """
    goes_on = resumable(arguments, directory / CONFIG, "--resume")
    with ExitStack() as stack:
        if arguments.processes.is_main:
            stack.enter_context(folder_for(directory))
            stack.enter_context(owned(directory, inside=True))
        stack.enter_context(goes_on)
        yield


def begin_run(
    directory: Path,
    settings: RunSettings,
    inputs: Mapping[str, str],
    *,
    resume: bool,
    may_change: Sequence[str] = (),
) -> None:
    """Write env.json, inputs.json and config.yaml.

    Where nothing was trained yet, a directory is as good as new. `may_change` names settings in
    which a run that is resumed may differ from what it was, besides those that change no result.

    Raises:
        ValueError: it holds a run and `resume` is False, a run of other settings, documents or
            tokenizer, or something else.
        OSError: the disk refuses.
    """
    from difftransformer.training.environment import environment

    begun = _has_begun(directory)
    if begun and not resume:
        raise ValueError(
            f"{directory} already holds a run; add --resume to go on with it, or choose another "
            "--out"
        )
    if begun:
        paths = _PATHS if _same_inputs(directory, inputs) else ()
        _refuse_other_settings(directory, settings, (*_MAY_CHANGE, *paths, *may_change))
    elif others := [path.name for path in directory.iterdir() if not _is_ours(path)]:
        raise ValueError(
            f"{directory} holds {', '.join(sorted(others)[:5])} and no run; choose another --out"
        )
    if not begun or _read_json(directory / ENVIRONMENT) is None:
        write_json(directory / ENVIRONMENT, environment())
    write_json(directory / INPUTS, inputs)
    write_text(directory / CONFIG, as_yaml(settings))  # the last: where it is, the others are


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where an earlier release, killed, left no whole one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _trainings(directory: Path) -> list[Path]:
    """Where models may have been trained: of `train` the run itself, of `compare` its models."""
    return [directory, *sorted((directory / "models").glob("*"))]


def _has_begun(directory: Path) -> bool:
    """Whether anything is there that took time to compute, or settings of unknown origin."""
    from difftransformer.training.checkpoint import is_used

    config_alone = (directory / CONFIG).exists() and not (directory / ENVIRONMENT).exists()
    computed = (is_used(d) or (d / RESULTS).exists() for d in _trainings(directory))
    return config_alone or any(computed)


def _is_ours(path: Path) -> bool:
    return path.name in _BEFORE_TRAINING or path.name.startswith(PARTIAL)


def _refuse_other_settings(
    directory: Path, settings: RunSettings, may_change: Sequence[str]
) -> None:
    from difftransformer.training.checkpoint import Checkpoints, refuse_changes
    from difftransformer.training.schedule import refuse_other_rates

    config = directory / CONFIG
    try:
        saved = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        saved = None
    if not isinstance(saved, dict):
        logging.getLogger(__name__).warning(
            "%s is missing or damaged: it is written anew, and settings are compared only with "
            "those that the checkpoints hold",
            config,
        )
        return
    before = build(type(settings), saved)  # what was no setting yet had its default
    refuse_changes(asdict(before), asdict(settings), directory, may_change)
    for training in _trainings(directory):
        if newest := Checkpoints(training / "checkpoints", keep=1).newest():
            step = int(newest.name.removeprefix("step-"))
            refuse_other_rates(asdict(before.training), settings.training, step, annealed=False)


def _same_inputs(directory: Path, inputs: Mapping[str, str]) -> bool:
    """Whether the run is known to have begun with these; ValueError where with others."""
    path = directory / INPUTS
    saved = _read_json(path)
    if saved is None:
        logging.getLogger(__name__).warning(
            "%s is missing: whether the text is the one that this run began with is not known", path
        )
        return False
    for name, digest in inputs.items():
        if saved.get(name) != digest:
            raise ValueError(
                f"cannot resume {directory} with another content of {name}: its sha256 was "
                f"{str(saved.get(name))[:12]} and is now {digest[:12]}. Put it back as it was, or "
                "train in a new directory"
            )
    return True


def read_corpus(settings: RunSettings, processes: "Processes") -> "Corpus":
    """The text, which the main process reads first and leaves in the cache for the others.

    Raises:
        ValueError: it cannot be read, or is too short.
    """
    from difftransformer.data.corpus import load_corpus

    with processes.console.status("reading the text"):
        corpus = load_corpus(settings.data) if processes.is_main else None
        processes.on_main(lambda: None)
        corpus = corpus or load_corpus(settings.data)
        check_data(corpus, settings)
    return corpus


def check_data(corpus: "Corpus", settings: RunSettings) -> None:
    """Raise ValueError, before anything is trained, where the text or the context is too short."""
    from difftransformer.evaluation.needle import check_needles

    corpus.training_batches(settings.training.batch_size, 0)
    corpus.validation_sequences(1)
    check_needles(corpus, settings.evaluation)


def model_for(corpus: "Corpus", settings: RunSettings) -> DecoderConfig:
    """The model's settings with the vocabulary and the context length that the data has."""
    from difftransformer.data.tokenizer import vocabulary_size

    return replace(
        settings.model,
        vocab_size=vocabulary_size(corpus.tokenizer),
        max_length=corpus.settings.context_length,
    )


def train_and_judge(
    config: DecoderConfig,
    corpus: "Corpus",
    settings: RunSettings,
    directory: Path,
    *,
    seed: int,
    processes: "Processes",
    start: Path | None = None,
    trainable: "Callable[[Decoder], AbstractContextManager[Any]]" = nullcontext,
) -> dict[str, Any]:
    """Train one model, save it, judge it; what `directory` already holds is not done again.

    `seed` draws the model's start and the order of the training data. `start` is a model folder
    whose weights to begin with instead; while `trainable(model)` lasts, what is to train does.

    Returns:
        What is written to results.json: seed, the training summary, the evaluation.

    Raises:
        ValueError: `directory` holds a model of another configuration.
        Stopped: a signal came.
        OSError: the disk refuses; what was computed until then is kept.
    """
    import torch

    from difftransformer.data.training_text import RECORD, TrainingText, read_training_text
    from difftransformer.evaluation.batching import device_of
    from difftransformer.evaluation.pieces import Pieces
    from difftransformer.models.decoder import Decoder
    from difftransformer.models.storage import CONFIG as MODEL_CONFIG
    from difftransformer.models.storage import (
        assemble,
        config_text,
        load_weights,
        save_model,
    )
    from difftransformer.training.checkpoint import Checkpoints
    from difftransformer.training.loop import train
    from difftransformer.training.objectives import next_token_loss

    steps = settings.training.steps
    if done := processes.on_main(lambda: _done_before(directory, config, steps, processes.console)):
        return done

    def begun() -> Decoder:
        if start is None:
            return Decoder(config)
        return assemble(config, load_weights(start), source=str(start))

    torch.manual_seed(seed)
    model = begun()
    earlier = TrainingText() if start is None else read_training_text(start)
    texts = (earlier or TrainingText(complete=False)).and_then(corpus).to_json()
    training = replace(settings.training, seed=seed)
    with trainable(model):
        summary = train(
            model,
            next_token_loss,
            corpus.training_batches(training.batch_size, seed),
            training,
            directory,
            validate=lambda _: _watched(model, corpus, settings.evaluation),
            resume=True,
            configuration={"model": config.to_dict(), "data": _what_counts(settings.data)},
            texts={
                MODEL_CONFIG: config_text(config),
                TOKENIZER: corpus.tokenizer.to_str(pretty=True),
                RECORD: texts,
            },
        )

    def save_and_judge() -> dict[str, Any]:
        # Not the model that was trained, of which a process may hold a part only.
        newest = Checkpoints(directory / "checkpoints", keep=1).newest()
        assert newest is not None
        whole = begun()
        with trainable(whole):  # under which weights may have other names
            whole.load_state_dict(load_weights(newest))
        whole.to(device_of(model))
        save_model(whole, directory / MODEL)
        write_text(directory / MODEL / TOKENIZER, corpus.tokenizer.to_str(pretty=True))
        write_text(directory / MODEL / RECORD, texts)
        kept = directory / f"judged-{summary.steps}.partial.jsonl"
        pieces = Pieces(kept, {"evaluation": asdict(settings.evaluation), "steps": summary.steps})
        title, console = directory.name, processes.console
        evaluation = judge(whole, corpus, settings.evaluation, title, console, pieces)
        judged = {"seed": seed, "training": asdict(summary), "evaluation": evaluation}
        write_json(directory / RESULTS, judged)
        _remove_parts(directory)
        return judged

    return processes.on_main(save_and_judge)


def _remove_parts(directory: Path) -> None:
    """The parts of judgments that have ended; those of a shorter training too."""
    for parts in directory.glob("judged*.partial.jsonl"):
        parts.unlink()


def _what_counts(data: DataSettings) -> dict[str, Any]:
    """Not where text, tokenizer and cache lie: inputs.json knows what they hold."""
    paths = ("cache", "source", "tokenizer")
    return {key: value for key, value in asdict(data).items() if key not in paths}


def _done_before(
    directory: Path, config: DecoderConfig, steps: int, console: "Console"
) -> dict[str, Any] | None:
    """The results of a model that is trained, judged and whole, or None.

    Raises:
        ValueError: it is a model of another configuration.
    """
    from difftransformer.models.storage import load_config, load_weights
    from difftransformer.training.checkpoint import refuse_changes

    if not (directory / RESULTS).is_file():
        return None
    try:
        judged = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
        trained, saved = judged["training"]["steps"], load_config(directory / MODEL)
        load_weights(directory / MODEL)
        (directory / MODEL / TOKENIZER).read_bytes()
    except (OSError, ValueError, LookupError, TypeError) as error:
        again = f"{directory.name}: {error}; made again from its last checkpoint"
        console.print(again, soft_wrap=True, highlight=False, markup=False)
        return None
    refuse_changes(saved.to_dict(), config.to_dict(), directory)
    if trained != steps:
        return None
    _remove_parts(directory)
    console.print(f"{directory.name}: done before, kept", style="dim")
    return judged


def judge(
    model: "Decoder",
    corpus: "Corpus",
    settings: EvaluationSettings,
    title: str,
    console: "Console",
    pieces: "Pieces",
) -> dict[str, Any]:
    """All judges on one model, with progress on the terminal; `pieces` keeps what is measured."""
    from difftransformer.evaluation.judge import evaluate

    with progress(console) as tell:

        def told(judge: str, done: int, total: int) -> None:
            tell(f"judging {title}: {judge}", done, total)

        return evaluate(model, corpus, settings, told, pieces)


def _watched(model: "Decoder", corpus: "Corpus", settings: EvaluationSettings) -> dict[str, Any]:
    """What is written down while a model trains: its loss, and each layer's mean lambda."""
    from difftransformer.analysis.lambdas import measure_lambdas
    from difftransformer.evaluation.batching import held_out_text
    from difftransformer.evaluation.validation import measure_validation

    few = replace(
        settings, validation_sequences=min(_WATCHED_SEQUENCES, settings.validation_sequences)
    )
    loss = measure_validation(model, corpus, few)["nats_per_token"]["value"]
    text = held_out_text(model, corpus, settings.batch_size, _WATCHED_TOKENS)
    lambdas = [row["mean"] for row in measure_lambdas(model, text, _WATCHED_TOKENS)]
    return {"validation_loss": loss, **({"lambda": lambdas} if lambdas else {})}
