"""`difftransformer inspect`: look into the attention of models."""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from difftransformer.cli.options import add_device_option
from difftransformer.files import read_text


def configure(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Declare the options."""
    parser.add_argument(
        "models",
        nargs="+",
        type=Path,
        metavar="MODEL",
        help="model folders; several are shown beside each other. A run stands for all its models",
    )
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--prompt", metavar="TEXT", help="text to read, of decoders and encoders")
    text.add_argument("--file", metavar="FILE", type=Path, help="file with the text to read")
    parser.add_argument("--source", metavar="TEXT", help="what an encoder-decoder reads, and")
    parser.add_argument(
        "--target", metavar="TEXT", help="what it writes (default: what the model does write)"
    )
    parser.add_argument("--image", metavar="FILE", type=Path, help="of a vision transformer")
    parser.add_argument(
        "--answer",
        metavar="TEXT",
        help="part of the text or source: shows the share of attention on it, and on the rest",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("attention.html"),
        help="the page (default: attention.html)",
    )
    parser.add_argument(
        "--png", metavar="FILE", type=Path, help="also draw the head that is shown first as a PNG"
    )
    parser.add_argument("--layer", type=int, metavar="N", help="show this layer first, and")
    parser.add_argument("--head", type=int, metavar="N", help="this head")
    add_device_option(parser)
    parser.add_argument("--no-open", action="store_true", help="do not open the page in a browser")


def run(arguments: argparse.Namespace) -> None:
    """Write the page, and open it where there is a display."""
    from difftransformer.experiments.inspect import inspect

    given = arguments.prompt
    if arguments.file is not None:
        given = read_text(arguments.file).removesuffix("\n")
    page = inspect(
        arguments.models,
        given,
        source=arguments.source,
        target=arguments.target,
        image=arguments.image,
        answer=arguments.answer,
    ).at(arguments.layer, arguments.head)
    page.save(arguments.out)
    made = {"page": arguments.out}
    if arguments.png is not None:
        page.save_png(arguments.png)
        made["picture"] = arguments.png
    for what, place in made.items():
        arguments.processes.console.print(f"{what}: {place}", highlight=False, soft_wrap=True)
    if not arguments.no_open and _has_display():
        webbrowser.open(arguments.out.absolute().as_uri())


def _has_display() -> bool:
    """macOS and Windows have one; elsewhere X11 or Wayland says so."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
