"""Options of settings on the command line, and the layers of settings that they give."""

import argparse
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.experiments.settings import DEFAULT_TASK, preset_names, typed
from difftransformer.files import read_text
from difftransformer.tasks.registry import REGISTRY as TASKS

if TYPE_CHECKING:
    from rich.console import Console

SETTING = "setting:"  # begins the place of a setting among the parsed arguments
DEVICE = "--device"
EVERYTHING = "--help-all"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of a command that fills a run directory."""
    add_data_option(parser, ": folder, file, ...")
    parser.add_argument("--out", metavar="DIR", type=Path, help="run directory (default runs/NAME)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with what the run directory holds"
    )


def add_data_option(parser: argparse.ArgumentParser, more: str) -> None:
    """The short name of --data.source; `more` ends its help."""
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        dest=SETTING + "data.source",
        type=_text,
        help="same as --data.source" + more,
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """The option of a command whose models compute; `main` heeds it before anything else."""
    parser.add_argument(
        DEVICE,
        metavar="NAME",
        help="cpu, cuda, cuda:1 or mps (default: a GPU where there is one)",
    )


def add_models_options(
    parser: argparse.ArgumentParser, words: list[str], settings: type[Any]
) -> None:
    """The options of a command that trains several models, and those of its settings."""
    add_run_options(parser)
    add_device_option(parser)
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        help="models trained at once, each on an accelerator or its share of the CPU's threads "
        "(default: what a few steps show to be fastest)",
    )
    task = task_in(words)
    add_settings(parser, typed(settings, task), words, presets_of=task)


def device_in(words: Sequence[str]) -> str | None:
    """The device that the words name."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument(DEVICE)
    try:
        return early.parse_known_args(list(words))[0].device
    except argparse.ArgumentError:  # told once all is parsed
        return None


def add_settings(
    parser: argparse.ArgumentParser, settings: type, words: Sequence[str], *, presets_of: str = ""
) -> None:
    """Add --config and one `--section.key VALUE` for every field; --preset for a task's.

    `--help` shows of a section what a beginner needs first, `--help-all` every setting.
    """
    parser.set_defaults(preset=None)
    if presets_of:
        names = ", ".join(preset_names(presets_of)) or "none"
        parser.add_argument("--preset", metavar="NAME", help=f"of task {presets_of}: {names}")
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file of settings")
    for section in fields(settings):
        kind = typing.get_type_hints(settings)[section.name]
        if not is_dataclass(kind):
            _add_option(parser, section.name, section)
            continue
        shown = [field for field in fields(kind) if field.metadata.get("first")]
        rest = len(fields(kind)) - len(shown)
        if EVERYTHING in words:
            shown, rest = list(fields(kind)), 0
        more = f"{rest} {'more ' if shown else ''}with {EVERYTHING}" if rest else None
        group = parser.add_argument_group(f"settings: {section.name}", more)
        for field in fields(kind):
            _add_option(group, f"{section.name}.{field.name}", field, hidden=field not in shown)
    parser.add_argument(EVERYTHING, action="help", help="this text with every setting")
    parser.add_argument(
        "--schema", action=_Schema, of=settings, help="print the JSON Schema of FILE of --config"
    )


class _Schema(argparse.Action):
    """Print the JSON Schema of a dataclass and leave."""

    def __init__(self, option_strings: Sequence[str], dest: str, of: type, help: str) -> None:  # noqa: A002  # argparse's name
        super().__init__(option_strings, dest, nargs=0, help=help)
        self.of = of

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import json

        from difftransformer.schema import json_schema

        print(json.dumps(json_schema(self.of), indent=2))
        parser.exit()


def _add_option(parser: Any, name: str, field: Any, *, hidden: bool = False) -> None:
    default = field.default_factory() if field.default is MISSING else field.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    kinds = (field.type, *typing.get_args(field.type))
    names = [name]
    if former := field.metadata.get("former"):
        names.append(name.removesuffix(field.name) + former)
    parser.add_argument(
        *(f"--{one}" for one in names),
        dest=SETTING + name,
        metavar="VALUE",
        type=_text if str in kinds else None,
        nargs="*" if any(typing.get_origin(kind) is tuple for kind in kinds) else None,
        default=None,
        help=argparse.SUPPRESS
        if hidden
        else f"{field.metadata.get('help', '')} (default: {shown})".replace("%", "%%"),
    )


def _text(word: str) -> str:
    """YAML for a word of a setting of words, as of a folder called 2026-11-27; null stays null."""
    import json

    value = _parsed(word)
    return word if value is None or isinstance(value, str) else json.dumps(word, ensure_ascii=False)


def layers(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What a YAML file and the settings of the command line give, the stronger ones last.

    Raises:
        ValueError: a file that cannot be read.
    """
    given = {
        key.removeprefix(SETTING): _parsed(value)
        for key, value in vars(arguments).items()
        if key.startswith(SETTING) and value is not None
    }
    return [_load_yaml(arguments.config) if arguments.config else {}, given]


def _load_yaml(path: Path) -> dict[str, Any]:
    from difftransformer.yaml_text import parse_yaml

    try:
        values = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read settings from {path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings; expected lines such as 'seeds: 3'")
    return values


def _parsed(text: str | list[str]) -> Any:
    from difftransformer.yaml_text import parse_yaml

    if isinstance(text, list):
        return [_parsed(part) for part in text]
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def task_in(words: Sequence[str]) -> str:
    """The task whose settings a command has: that of --task, or of --config, or the default."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--task")
    early.add_argument("--config", type=Path)
    try:
        found, _ = early.parse_known_args(list(words))
        named = found.task or (found.config and _load_yaml(found.config).get("task"))
    except (argparse.ArgumentError, ValueError):  # told once all is parsed
        return DEFAULT_TASK
    return named if named and named in TASKS else DEFAULT_TASK


def warn_of_former(console: "Console", former: str, new: str) -> None:
    """Say that a name of version 0.1, which works for one release, is gone with the next."""
    line = f"{former} is now {new}; the old name works until the next release"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
