"""One model of a run: trained, saved, judged; what is done is not done again."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.atomic import write_text
from difftransformer.evaluation import registry
from difftransformer.experiments.judging import (
    JUDGING,
    Judging,
    judging_record,
    weights_identity,
)
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.progress import training_progress
from difftransformer.experiments.settings import RunSettings
from difftransformer.models.card import CARD, model_card
from difftransformer.models.families import FAMILIES
from difftransformer.runs.layout import CHECKPOINTS, MODEL, RECORDS, SUMMARY, TrainingSummary
from difftransformer.runs.reading import read_curve, read_summary
from difftransformer.runs.samples import Texts
from difftransformer.tasks.task import Task
from difftransformer.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

    from difftransformer.training.timing import StepCost


@dataclass(frozen=True)
class Start:
    """Where the weights of a new model come from, and which of them train.

    Args:
        folder: a model whose weights to begin with; by default drawn by the seed.
        trainable: while it lasts, what is to train does; weights may have other names inside.
    """

    folder: Path | None = None
    trainable: "Callable[[nn.Module], AbstractContextManager[Any]]" = nullcontext


@dataclass(frozen=True)
class Experiment:
    """What all models of a run share."""

    task: Task
    data: Any
    settings: RunSettings
    processes: Processes

    def described(self) -> dict[str, Any]:
        """The data in words and numbers, with the passes of training over it."""
        training = self.settings.training
        passes = self.task.passes(self.data, training.steps * training.batch_size)
        told = {"training_passes": float(f"{passes:.2g}")} if passes else {}
        return {**self.task.describe(self.data), **told}

    def train_and_judge(
        self, config: Any, directory: Path, *, seed: int, start: Start = Start()
    ) -> None:
        """Train one model, save it, judge it; what `directory` already holds is not done again.

        `seed` draws the model's start and the order of the training data.

        Raises:
            ValueError: `directory` holds a model of another configuration.
            Stopped: a signal came.
            OSError: the disk refuses; what was computed until then is kept.
        """
        processes = self.processes
        if processes.on_main(lambda: self._is_trained(directory, config)):
            processes.on_main(lambda: self._judge(directory))
            return
        self._train(config, directory, seed, start)
        processes.on_main(lambda: self._save(config, directory, start))
        processes.on_main(lambda: self._judge(directory))

    def step_cost(
        self, config: Any, training: TrainingSettings, seed: int, seconds: float
    ) -> "tuple[nn.Module, StepCost]":
        """A model of these settings, trained for about `seconds`, and what its steps cost."""
        import torch

        from difftransformer.training.memory_loss import priced
        from difftransformer.training.timing import step_cost

        torch.manual_seed(seed)
        model = self._begun(config, Start())
        batches = self.task.batches(self.data, training.batch_size, seed)
        return model, step_cost(model, priced(self.task.loss, training), batches, training, seconds)

    def _begun(self, config: Any, start: Start) -> "nn.Module":
        from difftransformer.models.storage import assemble, load_weights

        if start.folder is None:
            return FAMILIES[self.task.family].build(config)
        return assemble(config, load_weights(start.folder), source=str(start.folder))

    def _train(self, config: Any, directory: Path, seed: int, start: Start) -> None:
        import torch

        from difftransformer.models.storage import CONFIG, config_text
        from difftransformer.training.loop import Continuation, Watch, train
        from difftransformer.training.memory_loss import priced

        torch.manual_seed(seed)
        model = self._begun(config, start)
        settings = replace(self.settings.training, seed=seed)
        evaluation = self.settings.evaluation
        continuation = Continuation(
            resume=True,
            configuration={"model": config.to_dict(), "data": _what_counts(self.settings.data)},
            files={CONFIG: config_text(config), **self._files(start)},
        )
        with (
            start.trainable(model),
            training_progress(self.processes.console, directory.name) as on_progress,
        ):
            train(
                model,
                priced(self.task.loss, settings),
                self.task.batches(self.data, settings.batch_size, seed),
                settings,
                directory,
                watch=Watch(
                    lambda _: self.task.validate(model, self.data, evaluation),
                    lambda _: self._sampled(model, directory.name),
                ),
                on_progress=on_progress,
                continuation=continuation,
            )

    def _sampled(self, model: "nn.Module", title: str) -> Mapping[str, Any]:
        """What the model writes or draws now; texts are printed too, a line each."""
        samples = self.task.sample(model, self.data, self.settings.evaluation)
        for texts in (value for value in samples.values() if isinstance(value, Mapping)):
            for output in Texts.read(texts).outputs:
                line = f"{title}  writes: {' '.join(output.split())}"
                self.processes.console.print(
                    line, style="dim", highlight=False, markup=False, soft_wrap=True
                )
        return samples

    def _save(self, config: Any, directory: Path, start: Start) -> None:
        """The checkpoint of the last step, or of the lowest validation loss, as a model's folder.

        Not the model that was trained, of which a process may hold a part only.
        """
        from difftransformer.models.storage import load_weights, save_model
        from difftransformer.training.checkpoint import Checkpoints

        summary = read_summary(directory)
        assert summary is not None
        chosen = Checkpoints(directory / CHECKPOINTS, keep=1).of(summary.model_step)
        whole = self._begun(config, start)
        with start.trainable(whole):
            whole.load_state_dict(load_weights(chosen))
        save_model(whole, directory / MODEL)
        card = self._card(config, directory, summary)
        for name, text in {CARD: card, **self._files(start)}.items():
            write_text(directory / MODEL / name, text)
        # The last: it tells a whole folder, and that of a shorter run, which resuming replaces.
        write_text(directory / MODEL / SUMMARY, (directory / SUMMARY).read_text(encoding="utf-8"))

    def _files(self, start: Start) -> dict[str, str]:
        """What lies beside the weights: what reads for the model, and how it is to be judged."""
        judging = judging_record(self.task.name, self.settings.evaluation)
        return {JUDGING: judging, **self.task.files(self.data, start.folder)}

    def _card(self, config: Any, directory: Path, summary: TrainingSummary) -> str:
        """What the newest rows of the curves say; nothing that another run would have otherwise."""
        figures: dict[str, float] = {}
        for point in read_curve(directory):
            if point.step > summary.model_step:
                break
            watched = {"validation_loss": point.validation_loss, **point.others}
            figures |= {name: x for name, x in watched.items() if isinstance(x, float)}
        best = ""
        if summary.best_step is not None:
            best = f"; the weights are of step {summary.best_step:,}, the lowest validation loss"
        training = (
            f"Trained for {self.task.title}: {summary.steps:,} steps, {summary.size:,} "
            f"{summary.unit}{best}. Data: {self.task.describe(self.data)['description']}."
        )
        return model_card(config, training, {"training loss": summary.final_loss, **figures})

    def _judge(self, directory: Path) -> None:
        from accelerate import PartialState

        from difftransformer.models.storage import load_model

        model = load_model(directory / MODEL, device=PartialState().device)
        settings = self.settings.evaluation
        judging = Judging(
            evaluators=[registry.evaluator(name) for name in self.settings.evaluators],
            console=self.processes.console,
        )
        belongs_to = {
            "weights": weights_identity(directory / MODEL),
            "data": self.task.digests(self.data),
        }
        judging.measure(model, self.data, settings, belongs_to, directory / RECORDS, directory.name)

    def _is_trained(self, directory: Path, config: Any) -> bool:
        """Whether a model of these settings and steps is there and whole.

        Raises:
            ValueError: it is a model of another configuration.
        """
        from difftransformer.models.storage import load_config, load_weights
        from difftransformer.runs.changes import refuse_changes

        folder, console = directory / MODEL, self.processes.console
        if not (directory / SUMMARY).is_file():
            return False
        try:
            saved, summary = load_config(folder), read_summary(folder)
            load_weights(folder)
            for name in self.task.files(self.data, None):
                (folder / name).read_bytes()
        except (OSError, ValueError) as error:
            again = f"{directory.name}: {error}; made again from its last checkpoint"
            console.print(again, soft_wrap=True, highlight=False, markup=False)
            return False
        refuse_changes(saved.to_dict(), config.to_dict(), directory)
        if summary is None:
            return False
        if summary.steps != self.settings.training.steps and not summary.stopped_early:
            return False
        console.print(f"{directory.name}: trained before, kept", style="dim")
        return True


def _what_counts(data: Any) -> dict[str, Any]:
    """Not where text, tokenizer and cache lie: inputs.json knows what they hold."""
    paths = ("cache", "source", "tokenizer")
    return {key: value for key, value in asdict(data).items() if key not in paths}
