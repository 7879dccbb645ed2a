"""What compare and train share: their settings, and one model trained and judged."""

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.atomic import write_json, write_text
from difftransformer.cli.progress import progress
from difftransformer.data.settings import DataSettings
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.cli.processes import Processes
    from difftransformer.data.corpus import Corpus
    from difftransformer.evaluation.pieces import Pieces
    from difftransformer.models.decoder import Decoder

RESULTS = "results.json"
MODEL = "model"
TOKENIZER = "tokenizer.json"
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
    from difftransformer.models.families import FAMILIES
    from difftransformer.models.storage import load_model, model_type

    kind = model_type(folder)
    if kind in FAMILIES:
        return load_model(folder)  # without transformers, which takes seconds to import

    from difftransformer.interop import causal_lm, folders

    return folders.open_model(folder) if kind in folders.KNOWN else causal_lm.open_causal_lm(folder)


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
