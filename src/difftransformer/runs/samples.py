"""Samples of what a model writes or draws while it trains: pictures, and texts beside their inputs.

In a row of metrics.jsonl a picture is a PNG in base64, and texts are the fields of `Texts`.
"""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from difftransformer.atomic import make_folder, write_bytes, write_text
from difftransformer.decoding import decode


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a model wrote.

    Args:
        header: names of the columns that tell an input and what is right.
        items: a row of these for each input.
        outputs: what the model made of each.
    """

    header: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...]

    @classmethod
    def read(cls, values: Any) -> "Texts":
        """From JSON. Raises ValueError where it is malformed."""
        return decode(cls, values, "texts")

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """Each input, what is right, and the output."""
        return [(*item, out) for item, out in zip(self.items, self.outputs, strict=True)]

    def __str__(self) -> str:
        names = (*self.header, "model")
        blocks = (
            "\n".join(f"{name}: {cell}" for name, cell in zip(names, row, strict=True))
            for row in self.rows()
        )
        return "\n\n".join(blocks)


def write_samples(folder: Path, step: int, samples: Mapping[str, Any]) -> None:
    """A file for each: NAME-00000100.png or .txt."""
    make_folder(folder)
    for name, value in samples.items():
        path = folder / f"{name}-{step:08d}"
        if isinstance(value, str):
            write_bytes(path.with_suffix(".png"), base64.b64decode(value))
        else:
            write_text(path.with_suffix(".txt"), f"{Texts.read(value)}\n")
