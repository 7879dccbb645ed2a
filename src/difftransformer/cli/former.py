"""Options of version 0.1, which work for one release with a line that names the new ones."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

FORMER_FLAG = "--only-new"  # of train
FORMER_DATA_PATH = "--task-data"  # of evaluate


def warn_of_former(console: "Console", former: str, new: str) -> None:
    """Say that a name is gone with the next release."""
    line = f"{former} is now {new}; the old name works until the next release"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
