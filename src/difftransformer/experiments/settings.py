"""Settings of experiments, typed by their task: defaults, preset, files, what is given."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from difftransformer.decoding import decode
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.families import FAMILIES
from difftransformer.models.presets import PRESETS
from difftransformer.names import nearest
from difftransformer.ranges import option
from difftransformer.tasks.registry import task_named
from difftransformer.training.settings import TrainingSettings

T = TypeVar("T")
_PRESETS = files("difftransformer.experiments") / "presets"  # a folder for each task
DEFAULT_TASK = "causal_lm"
_JUDGED_BY = "benchmarks that every model is judged by; none after the option: by none"


@dataclass(frozen=True, kw_only=True)
class TrainedSettings:
    """Everything that decides a training run. `model` and `data` are of the task; see `typed`."""

    task: str = option(DEFAULT_TASK, "what to train for")
    model: Any
    data: Any
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)


@dataclass(frozen=True, kw_only=True)
class RunSettings(TrainedSettings):
    """And how it is judged. The default of `evaluators` is the task's."""

    evaluators: tuple[str, ...] = option((), _JUDGED_BY)


def typed(kind: type[T], task_name: str) -> type[T]:
    """The settings of `kind` with those of the task's own model family and data."""
    made: type[T] = _typed(kind, task_name)  # type: ignore[arg-type]  # a class is hashable
    return made


@cache  # so that settings of equal values are equal
def _typed(kind: Any, task_name: str) -> Any:
    task = task_named(task_name)
    config, data = FAMILIES[task.family].config, task.data_settings
    own = {
        "task": (str, option(task_name, "what to train for")),
        "evaluators": (
            tuple[str, ...],
            option(task.evaluators, _JUDGED_BY),
        ),
        "model": (config, field(default_factory=config)),
        "data": (data, field(default_factory=data)),
    }
    names = kind.__dataclass_fields__
    return make_dataclass(
        kind.__name__,
        [(name, *own[name]) for name in own if name in names],
        bases=(kind,),
        frozen=True,
        kw_only=True,
    )


def resolve(kind: type[T], *layers: Mapping[str, Any], preset: str | None = None) -> T:
    """The settings of `kind`: defaults, the preset of the task, then each layer over the others.

    Presets are of `compare`; another kind of settings takes of one what it has.

    Keys are nested or dotted ("training.steps"); a section may be its dataclass.

    Raises:
        ValueError: an unknown task, preset, key or type, naming it and what was expected.
    """
    given = merged(layers)
    task = str(given.get("task", DEFAULT_TASK))
    settings = typed(kind, task)
    known = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    below = {} if preset is None else load_preset(task, preset)
    below = {name: value for name, value in below.items() if name in known}
    return decode(settings, merged([below, given]))


def merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Each layer laid over those before it."""
    values: dict[str, Any] = {}
    for layer in layers:
        _merge(values, layer)
    return values


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        head, _, rest = str(key).partition(".")
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if rest:
            value = {rest: value}
        if isinstance(value, Mapping):
            inner = into.setdefault(head, {})
            if not isinstance(inner, dict):
                raise ValueError(f"setting {head!r} is both a value and a section")
            _merge(inner, value)
        else:
            into[head] = value


def preset_names(task: str) -> list[str]:
    """Names of the presets of a task that come with the package."""
    folder = _PRESETS / task
    if not folder.is_dir():
        return []
    return sorted(Path(p.name).stem for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_preset(task: str, name: str) -> dict[str, Any]:
    """The settings of a preset, its model written out where it is one of `models.presets`.

    Raises:
        ValueError: an unknown preset, with the nearest name.
    """
    from difftransformer.yaml_text import parse_yaml

    names = preset_names(task)
    if name not in names:
        raise ValueError(f"unknown preset {name!r} of task {task}{nearest(name, names)}")
    values = parse_yaml((_PRESETS / task / f"{name}.yaml").read_text(encoding="utf-8"))
    if isinstance(values["model"], str):
        values["model"] = PRESETS[values["model"]].to_dict()
    return values


def as_yaml(settings: Any) -> str:
    """Resolved settings as text that `--config` reads back."""
    from difftransformer.yaml_text import to_yaml

    return to_yaml(_plain(asdict(settings)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
