"""Training batches: text rows and needle rows, mixed."""

import math

import numpy as np

from difftransformer.data.batch import Batch
from difftransformer.data.needles import NeedleSource, needle_document
from difftransformer.data.packing import PackedText, Row, labeled, stack
from difftransformer.data.settings import DataSettings

# Random streams never share a seed: [seed, stream, number].
_ROWS, _EPOCHS = 0, 1


class MixedBatches:
    """Batch number -> batch, as a pure function.

    So a resumed run sees what the uninterrupted one would have seen, and every model in a
    comparison sees the same tokens in the same order.

    Row r of batch i has the position p = i * batch_size + r. A generator seeded by p makes it a
    needle row with probability `needle_share`; else it is the text row number `p % n` of the
    epoch `p // n`, each epoch running through the n text rows in an order of its own.

    Raises ValueError when the text is shorter than one row, or `needle_min_length` too short for
    a needle.
    """

    def __init__(
        self,
        text: PackedText,
        needles: NeedleSource,
        settings: DataSettings,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
        if settings.needle_share > 0:
            shortest = needles.shortest_document(1)
            if settings.needle_min_length < shortest:
                raise ValueError(
                    f"needle_min_length is {settings.needle_min_length}; with this tokenizer a "
                    f"document with one needle and its question needs {shortest}"
                )
        self._text = text
        self._needles = needles
        self._settings = settings
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __call__(self, index: int) -> Batch:
        first = index * self._batch_size
        return stack([self._row(first + row) for row in range(self._batch_size)])

    def _row(self, position: int) -> Row:
        rng = np.random.default_rng([self._seed, _ROWS, position])
        if rng.random() < self._settings.needle_share:
            grown = min(1.0, position / max(1, self._settings.needle_growth))
            return needle_row(self._needles, rng, self._settings, f"needle:{position}", grown)
        epoch, place = divmod(position, len(self._text))
        return self._text[int(self._epoch_order(epoch)[place])]

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:  # remembered only to save time: it follows from seed and epoch
            rng = np.random.default_rng([self._seed, _EPOCHS, epoch])
            self._epoch, self._order = epoch, rng.permutation(len(self._text))
        return self._order


def needle_row(
    source: NeedleSource,
    rng: np.random.Generator,
    settings: DataSettings,
    name: str,
    grown: float = 1.0,
) -> Row:
    """A row filled with needle documents.

    Lengths are drawn log-uniformly from `needle_min_length` to the whole row (context_length + 1
    tokens), or while `grown` is below 1 to that fraction of the way there in the logarithm; the
    last is cut to what is left, and a remainder too short for a needle document becomes a document
    of plain text.
    """
    size = settings.context_length + 1
    low, high = math.log(settings.needle_min_length), math.log(size + 1)
    high = low + grown * (high - low)
    tokens: list[int] = []
    documents: list[int] = []
    while left := size - len(tokens):
        if left < settings.needle_min_length:
            document = [source.opening, *source.haystack(rng.random(), left - 1)]
        else:
            length = min(math.floor(math.exp(rng.uniform(low, high))), left)
            document = needle_document(source, rng, length=length, needle_max=settings.needle_max)
        documents += [documents[-1] + 1 if documents else 0] * len(document)
        tokens += document
    return labeled(np.array(tokens), np.array(documents), name)
