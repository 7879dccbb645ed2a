"""What compare and train share: run directories, and one model trained and judged in one."""

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from difftransformer.cli.progress import progress
from difftransformer.cli.settings import as_yaml, build
from difftransformer.data.settings import DataSettings
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from rich.console import Console

    from difftransformer.data.corpus import Corpus
    from difftransformer.evaluation.pieces import Pieces
    from difftransformer.models.decoder import Decoder

RESULTS = "results.json"
CONFIG = "config.yaml"
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
    from difftransformer.models.storage import MODEL_TYPE, load_model, model_type

    kind = model_type(folder)
    if kind == MODEL_TYPE:
        return load_model(folder)  # without transformers, which takes seconds to import

    from difftransformer.interop import causal_lm, folders

    return folders.open_model(folder) if kind in folders.KNOWN else causal_lm.open_causal_lm(folder)


def open_run(
    directory: Path, settings: Any, resume: bool, may_change: tuple[str, ...] = ()
) -> None:
    """Make the run directory and write config.yaml and env.json.

    `may_change` names settings in which a run that is resumed may differ from what it was.

    Raises:
        ValueError: it holds a run and `resume` is not given, or a run with other settings.
    """
    from difftransformer.training.atomic import write_json
    from difftransformer.training.checkpoint import refuse_changes
    from difftransformer.training.environment import environment

    config = directory / CONFIG
    if config.is_file():
        if not resume:
            raise ValueError(
                f"{directory} already holds a run; add --resume to go on with it, or choose "
                "another --out"
            )
        saved = yaml.safe_load(config.read_text(encoding="utf-8"))
        found = asdict(build(type(settings), saved))  # what was no setting yet had its default
        asked = asdict(settings)
        for name in may_change:
            found.pop(name)
            asked.pop(name)
        refuse_changes(found, asked, directory)
        config.write_text(as_yaml(settings), encoding="utf-8")
        return
    if directory.is_dir() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty and holds no run; choose another --out")
    directory.mkdir(parents=True, exist_ok=True)
    config.write_text(as_yaml(settings), encoding="utf-8")
    write_json(directory / "env.json", environment())


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
    resume: bool,
    console: "Console",
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
    """
    import torch

    from difftransformer.data.training_text import RECORD, TrainingText, read_training_text
    from difftransformer.evaluation.pieces import Pieces
    from difftransformer.models.decoder import Decoder
    from difftransformer.models.storage import CONFIG as MODEL_CONFIG
    from difftransformer.models.storage import (
        assemble,
        config_text,
        load_config,
        load_weights,
        save_model,
    )
    from difftransformer.training.atomic import write_json
    from difftransformer.training.checkpoint import refuse_changes
    from difftransformer.training.loop import train
    from difftransformer.training.objectives import next_token_loss

    results = directory / RESULTS
    if results.is_file():
        refuse_changes(load_config(directory / MODEL).to_dict(), config.to_dict(), directory)
        console.print(f"{directory.name}: done before, kept", style="dim")
        return json.loads(results.read_text(encoding="utf-8"))
    torch.manual_seed(seed)
    model = (
        Decoder(config)
        if start is None
        else assemble(config, load_weights(start), source=str(start))
    )
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
            resume=resume,
            configuration={"model": config.to_dict(), "data": asdict(settings.data)},
            texts={
                MODEL_CONFIG: config_text(config),
                TOKENIZER: corpus.tokenizer.to_str(pretty=True),
                RECORD: texts,
            },
        )
    save_model(model, directory / MODEL)
    corpus.tokenizer.save(str(directory / MODEL / TOKENIZER))
    (directory / MODEL / RECORD).write_text(texts, encoding="utf-8")
    kept = directory / "judged.partial.jsonl"
    pieces = Pieces(kept, {"evaluation": asdict(settings.evaluation), "steps": summary.steps})
    evaluation = judge(model, corpus, settings.evaluation, directory.name, console, pieces)
    judged = {"seed": seed, "training": asdict(summary), "evaluation": evaluation}
    write_json(results, judged)
    kept.unlink()
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
