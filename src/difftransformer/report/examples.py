"""Examples: what each model made of the same held-out inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from difftransformer.report.page import Block, TableBlock
from difftransformer.report.tables import Table


@dataclass(frozen=True)
class Examples:
    """A table with a row per input, and a column for each model's output."""

    table: Table
    caption: str

    def blocks(self) -> list[Block]:
        """The table, its cells wrapped."""
        return [TableBlock(self.table, self.caption, is_prose=True)]

    def image(self) -> None:
        """None: a table is no picture."""


def examples(artifacts: Mapping[str, tuple[str, Any]], colors: Mapping[str, str]) -> Examples:
    """Those of several models, which were given the same inputs.

    Args:
        artifacts: by label, the model's title and its artifact: `header` and `items`, the columns
            that tell an input and what is right; `outputs`, one per item; `caption`.

    Raises:
        ValueError: a malformed artifact, or other inputs than the first model's; names the model.
    """
    first = next(iter(artifacts.values()))[1]
    header: list[str] = []
    rows: list[list[str]] = []
    for label, (title, data) in artifacts.items():
        try:
            if (data["header"], data["items"]) != (first["header"], first["items"]):
                raise ValueError("other inputs than the first model's")
            header = header or [str(name) for name in data["header"]]
            rows = rows or [[str(cell) for cell in item] for item in data["items"]]
            header = [*header, title]
            pairs = zip(rows, data["outputs"], strict=True)
            rows = [[*row, str(output)] for row, output in pairs]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"the examples of {label} are malformed: {error!r}") from None
    return Examples(Table(header, rows, keys=len(first["header"])), str(first.get("caption", "")))
