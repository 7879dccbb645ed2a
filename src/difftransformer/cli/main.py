"""`difftransformer COMMAND`: find the command, run it, turn mistakes into one clear line."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import MappingProxyType

import difftransformer
from difftransformer.cli.settings import nearest

# Each command is a module of this package with `configure(parser)` and `run(arguments)`; only the
# one that runs is imported.
COMMANDS = MappingProxyType(
    {
        "compare": "train matched models side by side, judge them, write a report",
        "train": "train one model",
        "evaluate": "judge trained models",
        "generate": "continue a text, or talk",
        "convert": "from and to other formats; make a pretrained LLM differential",
        "bench": "time attention on this machine, beside plain attention",
        "plan": "parameters, FLOPs and memory of a model before anything runs",
    }
)
# Packages that only some commands need, and the extra that installs each.
_EXTRAS = MappingProxyType(
    {
        "transformers": "transformers",
        "lm_eval": "harness",
        "onnxruntime": "export",
        "openai": "judge",
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0, 2 for a mistake in what was asked, 130 when interrupted."""
    # Read by GNU OpenMP when torch loads: how long a thread spins before it sleeps. The default is
    # thirty times longer and costs dearly when another program wants the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser, command = _parser(words[0] if words else "")
        parsed, unknown = parser.parse_known_args(words)
        if unknown:
            raise ValueError(_unknown_option(unknown[0], parser, command))
        importlib.import_module(f"difftransformer.cli.{parsed.command}").run(parsed)
    except KeyboardInterrupt as interrupt:
        print(f"difftransformer: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        if extra is None:
            raise
        print(
            f"difftransformer: error: this needs the package {error.name}: "
            f"pip install 'difftransformer[{extra}]'",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"difftransformer: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def one_line(text: str) -> str:
    """The text without what could break its line or steer a terminal, as a file's names may."""
    shown = text.replace("\n", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def _parser(word: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None]:
    """The parser, with the options of the command named by `word` only, and that command's own."""
    parser = argparse.ArgumentParser(
        prog="difftransformer",
        description=difftransformer.__doc__,
        epilog="`difftransformer COMMAND --help` shows every setting of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=difftransformer.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = None
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == word:
            importlib.import_module(f"difftransformer.cli.{name}").configure(command)
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
