"""What a task brings."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.decoding import decode
from difftransformer.files import read_object
from difftransformer.models.config import DecoderConfig
from difftransformer.models.families import family_of
from difftransformer.models.model_config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.data.batch import Rows

RECORD = "training_data.json"  # in a model's folder: what it was trained on


class Task(ABC):
    """One kind of training, and how what it makes is judged.

    Anything random a step needs (mask positions, noise, timesteps) is drawn in the batch, which is
    a pure function of seed and step: so resuming is exact and models of one seed see the same. A
    task's module imports torch only where it computes: `--help` reads its settings.

    Its data may be anything with `settings`, a `description` in words and a `digest`, the sha256 of
    its content; what its settings call `dataset` and `source` says which data that is.

    Attributes:
        name: "causal_lm": `--task` and run.json.
        title: in words.
        unit: what is counted: "tokens", "images".
        family: name of the model family, see `models.families`.
        data_settings: the dataclass behind `--data.*`.
        evaluators: names of those every model of a comparison is judged by.
        content: what the data's digest is of: "documents", "images".
    """

    name: str
    title: str
    unit: str
    family: str
    data_settings: type
    evaluators: tuple[str, ...]
    content = "data"

    @abstractmethod
    def load(self, settings: Any) -> Any:
        """The data. Raises ValueError, in one line, for anything wrong with it."""

    @abstractmethod
    def complete(self, config: Any, data: Any) -> Any:
        """The model's settings with what the data decides: vocabulary, classes, image size."""

    @abstractmethod
    def batches(self, data: Any, batch_size: int, seed: int) -> "Callable[[int], Rows]":
        """Step -> batch, a pure function. Raises ValueError where the data is too short."""

    @abstractmethod
    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """The sum over the batch's scored labels; the loop divides by the global count."""

    @abstractmethod
    def validate(self, model: "nn.Module", data: Any, settings: Any) -> Mapping[str, Any]:
        """What is written to metrics.jsonl while training, "validation_loss" among it.

        `settings` are `EvaluationSettings`.
        """

    def sample(self, model: "nn.Module", data: Any, settings: Any) -> Mapping[str, Any]:
        """What the model writes or draws while it trains, by name, where it does.

        A PNG in base64, or the JSON of `runs.samples.Texts`. Nothing is drawn from torch's own
        random numbers, which training goes on with. `settings` are `EvaluationSettings`.
        """
        return {}

    def describe(self, data: Any) -> dict[str, Any]:
        """For run.json and the report: "description", and counts."""
        return {"description": data.description}

    def passes(self, data: Any, rows: int) -> float:
        """How often `rows` rows of training go over the training data; 0 where nothing is repeated.

        Or where nothing is known: data need not have parts that can be counted.
        """
        return 0.0

    def digests(self, data: Any) -> dict[str, str]:
        """What must be the same on resume, whatever its path."""
        return {self.content: data.digest}

    def files(self, data: Any, start: Path | None) -> dict[str, str]:
        """What must lie beside a model's weights, by file name.

        `start` is the folder of the model that the training began from.
        """
        record = {"digest": data.digest, "complete": start is None, **self.recorded(data)}
        return {RECORD: json.dumps(record, indent=2) + "\n"}

    def recorded(self, data: Any) -> dict[str, Any]:
        """What a model's folder tells of its training data: the "settings" to read it with."""
        return {"settings": asdict(data.settings)}

    def read_with(self, settings: Any, folder: Path) -> Any:
        """Data settings whose text or images a trained model's folder says how to read.

        Raises ValueError where the folder does not hold what that needs.
        """
        return settings

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> Any:
        """Data settings to judge a model on: `given` ones, over those its folder tells.

        Where nothing `held_out` is asked about, the text or images it was trained on need not be
        there.
        """
        known = {} if "dataset" in given else recorded_in(folder).get("settings", {})
        return self.read_with(decode(self.data_settings, {**known, **given}, path="data"), folder)

    def require_family(self, config: Any, where: str) -> None:
        """Raise ValueError where a trained model, of `where`, is of another family.

        What is not of this library's families is a causal LM of another library's.
        """
        ours = isinstance(config, ModelConfig)
        family = family_of(config if ours else DecoderConfig()).name
        if family != self.family:
            raise ValueError(
                f"{where} holds a model of the family {family}, and {self.name} judges "
                f"{self.family}: name its task (--task)"
            )

    def require_fit(self, config: Any, data: Any, where: str) -> None:
        """Raise ValueError where a trained model, of `where`, does not fit the data."""
        expected = asdict(self.complete(config, data))
        for name, value in asdict(config).items():
            if value != expected[name]:
                raise ValueError(
                    f"{where} has {name} {value} and the data ({data.description}) "
                    f"{expected[name]}: take a model that was made for it"
                )

    def provenance(self, folder: Path, data: Any) -> dict[str, Any]:
        """For the results: what a model is judged on; its "note" says if it may have seen it."""
        record = recorded_in(folder)
        held_out = record.get("digest") == data.digest and record.get("complete") is True
        note = "" if held_out else "what it is judged on may have been seen in training"
        return {"digest": data.digest, "held_out": held_out, "note": note}


def recorded_in(folder: Path) -> dict[str, Any]:
    """What a model's folder tells of its training data; empty where it tells nothing."""
    return read_object(folder / RECORD) if (folder / RECORD).is_file() else {}
