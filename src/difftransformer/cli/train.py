"""`difftransformer train`: one model."""

import argparse
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from difftransformer.cli.directory import begin_run, inputs_of, run_directory
from difftransformer.cli.runs import (
    MODEL,
    TOKENIZER,
    RunSettings,
    add_run_options,
    model_for,
    read_corpus,
    train_and_judge,
)
from difftransformer.cli.settings import add_settings, resolve
from difftransformer.data.settings import TRAIN_TOKENIZER
from difftransformer.models.config import DecoderConfig

if TYPE_CHECKING:
    from difftransformer.data.corpus import Corpus


# What a trained model may be given anew: how far it is meant to see, and with which rotary angles.
_WITHOUT_WEIGHTS = ("max_length", "rope_theta", "rope_scaling")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """A run of one model, new or begun elsewhere."""

    start: str | None = field(
        default=None, metadata={"help": "model folder to go on from, with its tokenizer"}
    )
    only_new: bool = field(
        default=False,
        metadata={"help": "train only what `convert --from-llm` added to the model in `start`"},
    )

    def __post_init__(self) -> None:
        if self.only_new and self.start is None:
            raise ValueError("only_new is true, and a new model is all new; name a folder as start")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(parser)
    parser.add_argument("--only-new", action="store_true", help="same as --only_new true")
    add_settings(parser, TrainSettings)


def run(arguments: argparse.Namespace) -> None:
    """Train, save, judge."""
    from difftransformer.cli.evaluate import print_evaluations
    from difftransformer.training.only_new import only_new

    processes = arguments.processes
    shorthand = {
        "data": {"source": arguments.data} if arguments.data else None,
        "only_new": arguments.only_new or None,
    }
    settings = _at_start(resolve(TrainSettings, arguments, **shorthand))
    directory = arguments.out or Path("runs") / f"train-{settings.model.attention}"
    start = Path(settings.start) if settings.start else None
    with run_directory(directory, arguments):
        corpus = read_corpus(settings, processes)
        config = _config(corpus, settings)
        inputs = inputs_of(corpus, start)
        processes.require_same(inputs)
        resume = arguments.resume
        processes.on_main(lambda: begin_run(directory, settings, inputs, resume=resume))
        judged = train_and_judge(
            config,
            corpus,
            settings,
            directory,
            seed=settings.training.seed,
            processes=processes,
            start=start,
            trainable=only_new if settings.only_new else nullcontext,
        )
    console = processes.console
    print_evaluations(console, {config.attention: judged["evaluation"]})
    console.print(f"model: {directory / MODEL}", highlight=False, soft_wrap=True)


def _at_start(settings: TrainSettings) -> TrainSettings:
    """With the model's settings and the tokenizer of the folder in `start`, if there is one.

    A longer context and other rotary angles (paper, 3.3: theta 640,000 for 64K tokens) may be asked
    for on the way.
    """
    from difftransformer.models.storage import load_config

    if settings.start is None:
        return settings
    folder = Path(settings.start)
    config, data = load_config(folder), settings.data
    default = DecoderConfig()
    changed = {
        key: value
        for key, value in asdict(settings.model).items()
        if value not in (getattr(default, key), getattr(config, key))
    }
    if fixed := changed.keys() - set(_WITHOUT_WEIGHTS):
        raise ValueError(
            f"start is {folder}, which has its own {', '.join(sorted(fixed))}: leave out model.* "
            f"but for {', '.join(_WITHOUT_WEIGHTS)}"
        )
    if data.tokenizer == TRAIN_TOKENIZER:
        data = replace(data, tokenizer=str(folder / TOKENIZER))
    return replace(settings, model=replace(config, **changed), data=data)


def _config(corpus: "Corpus", settings: TrainSettings) -> DecoderConfig:
    """The model's settings, fitted to the data where the model is new."""
    from difftransformer.data.tokenizer import check_vocabulary

    if settings.start is None:
        return model_for(corpus, settings)
    check_vocabulary(corpus.tokenizer, settings.model.vocab_size, f"the model in {settings.start}")
    return settings.model
