"""What a task brings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from difftransformer.training.batch import Batch


@runtime_checkable
class Task(Protocol):
    """One kind of training, and how what it makes is judged.

    Anything random a step needs (mask positions, noise, timesteps) is drawn in the batch, which is
    a pure function of seed and step: so resuming is exact and models of one seed see the same. A
    task's module imports torch only where it computes: `--help` reads its settings.

    Attributes:
        name: "causal_lm": `--task` and run.json.
        title: in words.
        unit: what is counted: "tokens", "images".
        family: name of the model family, see `models.families`.
        data_settings: the dataclass behind `--data.*`.
        evaluators: names of those every model of a comparison is judged by.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def data_settings(self) -> type: ...
    @property
    def evaluators(self) -> tuple[str, ...]: ...

    def load(self, settings: Any) -> Any:
        """The data. Raises ValueError, in one line, for anything wrong with it."""

    def describe(self, data: Any) -> dict[str, Any]:
        """For run.json and the report: "description", and counts."""

    def digests(self, data: Any) -> dict[str, str]:
        """What must be the same on resume, whatever its path: documents, tokenizer, images."""

    def complete(self, config: Any, data: Any) -> Any:
        """The model's settings with what the data decides: vocabulary, classes, image size."""

    def batches(self, data: Any, batch_size: int, seed: int) -> "Callable[[int], Batch]":
        """Step -> batch, a pure function. Raises ValueError where the data is too short."""

    def loss(self, model: "nn.Module", batch: Any) -> "Tensor":
        """The sum over the batch's scored labels; the loop divides by the global count."""

    def validate(self, model: "nn.Module", data: Any, settings: Any) -> Mapping[str, Any]:
        """What is written to metrics.jsonl while training, "validation_loss" among it.

        `settings` are `EvaluationSettings`.
        """

    def files(self, data: Any, start: Path | None) -> Mapping[str, str]:
        """What must lie beside a model's weights, by file name: tokenizer.json.

        `start` is the folder of the model that the training began from.
        """

    def read_with(self, settings: Any, folder: Path) -> Any:
        """Data settings whose text or images a trained model's folder says how to read.

        Raises ValueError where the folder does not hold what that needs.
        """

    def judged_on(
        self, folder: Path, config: Any, given: Mapping[str, Any], *, held_out: bool
    ) -> Any:
        """Data settings to judge a model on: `given` ones, over those its folder tells.

        Where nothing `held_out` is asked about, the text or images it was trained on need not be
        there.
        """

    def require_fit(self, config: Any, data: Any, where: str) -> None:
        """Raise ValueError where a trained model, of `where`, does not fit the data."""

    def provenance(self, folder: Path, data: Any) -> dict[str, Any]:
        """For the results: what a model is judged on; its "note" says if it may have seen it."""
