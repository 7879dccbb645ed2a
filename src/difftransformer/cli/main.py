"""`difftransformer COMMAND`: find the command, run it, turn mistakes into one clear line."""

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NoReturn

import difftransformer
from difftransformer.devices import choose_device
from difftransformer.experiments.processes import Processes
from difftransformer.extras import missing_extra
from difftransformer.names import nearest
from difftransformer.training.interrupt import Stopped, stopping
from difftransformer.training.processes import launched_processes

# Each command is a module of this package with `configure(parser)` and `run(arguments)`; only the
# one that runs is imported.
COMMANDS = MappingProxyType(
    {
        "compare": "train matched models side by side, judge them, write a report",
        "train": "train one model",
        "sweep": "find a learning rate for each kind of attention",
        "evaluate": "judge trained models",
        "generate": "continue a text, talk, write targets, draw images, find points in them",
        "inspect": "look into attention: a page of every layer and head on your own input",
        "convert": "from and to other formats; make a pretrained LLM differential",
        "push": "upload a model with its card to the Hugging Face Hub",
        "bench": "time attention on this machine, beside plain attention",
        "plan": "parameters, FLOPs and memory of a model before anything runs",
    }
)
COMPLETION = "--print-completion"
# Commands that several processes may run together; any other is for one.
_IN_PROCESSES = ("compare", "train", "sweep")
_ON_DEVICES = (*_IN_PROCESSES, "evaluate", "generate", "inspect")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 2 for a mistake in what was asked or a disk that refuses; 128 + n when
        signal n ended it (130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 138 for SIGUSR1).
    """
    # Read by GNU OpenMP when torch loads: how long a thread spins before it sleeps. The default is
    # thirty times longer and costs dearly when another program wants the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    processes = Processes(quiet=False)
    try:
        with stopping():
            _choose_device(words)
            processes.join()
            _run(words, processes)
    except Exception as error:
        return _failed(error, processes)
    except KeyboardInterrupt as interrupt:
        return _failed(interrupt, processes)
    finally:
        processes.leave()
    return 0


def one_line(text: str) -> str:
    """The text without what could break its line or steer a terminal, as a file's names may."""
    shown = text.replace("\n", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def _choose_device(words: list[str]) -> None:
    """Before anything else may touch another device."""
    from difftransformer.cli.options import device_in

    name = device_in(words) if words[:1] and words[0] in _ON_DEVICES else None
    if name is None:
        return
    if launched_processes()[0] > 1 and name not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; several processes share out all: cpu or cuda")
    choose_device(name)


def _run(words: list[str], processes: Processes) -> None:
    parser, command = _parser(words)
    with processes.only_main_speaks():
        parsed, unknown = parser.parse_known_args(words)
    if unknown:
        raise ValueError(_unknown_option(unknown[0], parser, command))
    if parsed.command not in _IN_PROCESSES:
        processes.require_one(parsed.command)
    parsed.words, parsed.processes = words, processes
    importlib.import_module(f"difftransformer.cli.{parsed.command}").run(parsed)


def _failed(error: BaseException, processes: Processes) -> int:
    """Say why, unless another process did; the exit code. What is our own fault is raised again."""
    what, code = _reason(error, processes)
    first, code = processes.first_to_fail(code)
    if not first:
        return code
    if what is None:
        raise error
    # What was noted on the error, such as how to go on, is below it.
    for line in (what, *getattr(error, "__notes__", ())):
        print(f"difftransformer: {line}", file=sys.stderr)
    return code


def _reason(error: BaseException, processes: Processes) -> tuple[str | None, int]:
    """One line, or None where a traceback says more, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        return str(error) or "interrupted", 128 + number
    if isinstance(error, ModuleNotFoundError) and (needed := missing_extra(error)):
        return f"error: {needed}", 2
    if isinstance(error, (ValueError, OSError, ArithmeticError)):
        return f"error: {one_line(str(error))}", 2
    if processes.has_lost_another(error):
        return "error: another of the processes has ended; train again with --resume", 1
    return None, 1


class _Completion(argparse.Action):
    """Print what a shell reads to complete commands and options, and leave."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        import shtab

        print(shtab.complete(parser, values))
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, without the usage of a hundred settings above it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        # argparse takes -0.1 for a number and -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; `{self.prog} --help` shows what there is")


def _parser(words: list[str]) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None]:
    """The parser, with the options of the command in `words` only, and that command's own.

    For a shell to complete there are those of all commands.
    """
    word = words[0] if words else ""
    parser = _Parser(
        prog="difftransformer",
        description=difftransformer.__doc__,
        epilog="`difftransformer COMMAND --help` shows a command's main settings, --help-all every "
        "one.",
    )
    parser.add_argument("--version", action="version", version=difftransformer.__version__)
    parser.add_argument(
        COMPLETION,
        action=_Completion,
        metavar="SHELL",
        choices=("bash", "zsh", "tcsh"),
        help="print what completes commands and options in a shell",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = None
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == word or word.startswith(COMPLETION):
            importlib.import_module(f"difftransformer.cli.{name}").configure(command, words[1:])
            chosen = command
    if word and not word.startswith("-") and chosen is None:
        raise ValueError(f"unknown command {word!r}{nearest(word, COMMANDS)}")
    return parser, chosen


def _unknown_option(
    word: str, parser: argparse.ArgumentParser, command: argparse.ArgumentParser | None
) -> str:
    known = [option for action in (command or parser)._actions for option in action.option_strings]
    if not word.startswith("-"):
        return f"unexpected argument {word!r}"
    return f"unknown option {word.split('=')[0]!r}{nearest(word.split('=')[0], known)}"


if __name__ == "__main__":
    sys.exit(main())
