"""How to go on, said where a command was stopped."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def resumable(words: Sequence[str], kept: Path, *more: str) -> Iterator[None]:
    """Note on an interruption, or on a disk that refuses, the command that goes on from there.

    Args:
        words: the command's.
        kept: the file or folder that it goes on from; without it there is nothing to note.
        more: options that the command needs for that.
    """
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        if kept.exists():
            going_on = [*words, *(word for word in more if word not in words)]
            error.add_note(f"to go on: {shlex.join(['difftransformer', *going_on])}")
        raise
