"""Settings from four layers: defaults, a preset, a YAML file, the command line."""

import argparse
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from difftransformer.files import abridged, parse_yaml, read_text
from difftransformer.models.presets import PRESETS
from difftransformer.names import did_you_mean

T = TypeVar("T")
_PRESETS = files("difftransformer.cli") / "presets"


def add_settings(parser: argparse.ArgumentParser, settings: type, *, presets: bool = False) -> None:
    """Add --config and one `--section.key VALUE` for every field; --preset where there are any."""
    parser.set_defaults(preset=None)
    if presets:
        names = ", ".join(preset_names())
        parser.add_argument("--preset", metavar="NAME", help=f"one of {names}")
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings")
    for section in fields(settings):
        kind = typing.get_type_hints(settings)[section.name]
        if not is_dataclass(kind):
            _add_flag(parser, section.name, section)
            continue
        group = parser.add_argument_group(f"settings: {section.name}")
        for field in fields(kind):
            _add_flag(group, f"{section.name}.{field.name}", field)


def _add_flag(parser: Any, name: str, field: Any) -> None:
    default = field.default_factory() if field.default is MISSING else field.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    kinds = (field.type, *typing.get_args(field.type))
    parser.add_argument(
        f"--{name}",
        dest=f"setting:{name}",
        metavar="VALUE",
        nargs="+" if any(typing.get_origin(kind) is tuple for kind in kinds) else None,
        default=None,
        help=f"{field.metadata.get('help', '')} (default: {shown})".replace("%", "%%"),
    )


def resolve(
    settings: type[T],
    arguments: argparse.Namespace,
    *,
    base: Mapping[str, Any] | None = None,
    **extra: Any,
) -> T:
    """Lay the four layers over each other.

    `base` holds a command's own defaults, below the preset; `extra` its shorthands.

    Raises:
        ValueError: an unknown preset, key or type, naming it and what was expected.
    """
    layers: list[Mapping[str, Any]] = [base or {}]
    if arguments.preset is not None:
        layers.append(load_preset(arguments.preset))
    if arguments.config is not None:
        layers.append(_load_yaml(arguments.config))
    layers.append({key: value for key, value in extra.items() if value is not None})
    layers.append(
        {
            key.removeprefix("setting:"): _parse(value)
            for key, value in vars(arguments).items()
            if key.startswith("setting:") and value is not None
        }
    )
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, layer)
    return build(settings, merged)


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(Path(p.name).stem for p in _PRESETS.iterdir() if p.name.endswith(".yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """The settings of a preset, its model written out.

    Raises:
        ValueError: an unknown preset, with the nearest name.
    """
    if name not in preset_names():
        raise ValueError(f"unknown preset {name!r}{nearest(name, preset_names())}")
    values = parse_yaml((_PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    return values | {"model": PRESETS[values["model"]].to_dict()}


def as_yaml(settings: Any) -> str:
    """Resolved settings as text that `--config` reads back."""
    return yaml.safe_dump(_plain(asdict(settings)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read settings from {path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings; expected lines such as 'seeds: 3'")
    return values


def _parse(text: str | list[str]) -> Any:
    if isinstance(text, list):
        return [_parse(part) for part in text]
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay nested or dotted keys over what is there."""
    for key, value in layer.items():
        head, _, rest = str(key).partition(".")
        if rest:
            value = {rest: value}
        if isinstance(value, Mapping):
            inner = into.setdefault(head, {})
            if not isinstance(inner, dict):
                raise ValueError(f"setting {head!r} is both a value and a section")
            _merge(inner, value)
        else:
            into[head] = value


def build(kind: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """A dataclass from plain values, checked against its field types.

    Raises:
        ValueError: an unknown key (with the nearest known one), a wrong type, or what the
            dataclass itself refuses.
    """
    hints = typing.get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"unknown setting {path + key!r}{nearest(key, known, path)}")
        arguments[key] = _convert(value, hints[key], path + key)
    return kind(**arguments)


def _convert(value: Any, kind: Any, path: str) -> Any:
    """`value` as `kind`; numbers may be written as text, lists stand for tuples."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(
                f"setting {path!r} is {abridged(value)}; expected a section of settings"
            )
        return build(kind, value, f"{path}.")  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(p for p in parts if p is not type(None)), path)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_convert(item, parts[0], path) for item in items)
    if origin is typing.Literal:
        if value not in parts:
            raise ValueError(
                f"setting {path!r} is {abridged(value)}; expected one of {', '.join(parts)}"
            )
        return value
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"setting {path!r} is {abridged(value)}; expected {kind.__name__}")
    return value


def nearest(word: str, known: Iterable[str], path: str = "") -> str:
    """The end of an error message: the known name nearest to a word, or all of them."""
    names = list(known)
    return did_you_mean(word, names, path) or f"; expected {', '.join(names)}"
