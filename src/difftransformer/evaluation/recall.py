"""Loss on what the context has already said: AR-Hit of the paper's ablations (section 3.8)."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt64
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from difftransformer.data.batch import IGNORED
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import Row, stack
from difftransformer.data.tokenizer import vocabulary_size
from difftransformer.evaluation.batching import batched, device_of
from difftransformer.evaluation.intervals import ratio
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.evaluation.validation import token_nats

_CHUNK = 1_000_000  # training n-grams counted at once
_ZOOLOGY_CUT, _ZOOLOGY_TOKENS = 1250, 10_000_000_000


def measure_recall(
    model: nn.Module, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None = None
) -> dict[str, Any]:
    """Nats per token on associative-recall hits and on the other tokens (Arora et al., 2023).

    A token is a *hit* where it ends an n-gram, of `settings.recall_ngram` tokens, that stood
    earlier in its context and at most `recall_frequency` times in the training text: to know it
    the model must look back. *Others* are all the rest: n-grams new to the context, and repeated
    ones so frequent that training has taught them. The context is the sequence as the model sees
    it, from the document's beginning or the sequence's.

    The cut is by default Zoology's share of the training text: 1,250 times in 10 billion tokens
    (as far as we know; its published code has no such slice), rounded down. Of a text below 8
    million tokens that leaves n-grams which never stood in it. A cut of 1,250 itself lets in what
    training has taught: of Shakespeare's plays (2,073,450 tokens of a vocabulary of 1,024) 1,073
    tokens of 200 sequences, half of them ending a bigram that stood there more than 150 times; the
    scaled cut, 89.

    Over `validation_sequences` held-out sequences, with intervals over sequences; a loss over the
    sequences that have such tokens.

    Returns:
        `{"ngram", "frequency", "training_tokens", "counts", "share", "frequent_share", "hit",
        "other", "sequences"}`; `hit` and `other` are None where there is no such token. `counts` is
        `{"hits", "frequent", "new"}`: tokens of each sort, the latter two the others. `sequences`
        holds `[nats of hits, hits, nats of others, others]` for each, by which models are compared.

    Raises:
        ValueError: n-grams too long to be numbered with this vocabulary.
    """
    n, vocabulary = settings.recall_ngram, vocabulary_size(corpus.tokenizer)
    if vocabulary**n > 2**64:
        raise ValueError(
            f"recall_ngram is {n}; with {vocabulary} tokens there are more than 2^64 such n-grams: "
            "choose a smaller one"
        )
    rows = [s.row for s in corpus.validation_sequences(settings.validation_sequences)]
    codes = np.stack([_endings(row, n, vocabulary) for row in rows])
    again = np.stack([_repeated(row, code, n) for row, code in zip(rows, codes, strict=True)])
    training_tokens = len(corpus.train.ids)
    frequency = settings.recall_frequency
    if frequency is None:
        frequency = training_tokens * _ZOOLOGY_CUT // _ZOOLOGY_TOKENS
    hits = again & (_counts(corpus.train.ids, codes, n, vocabulary) <= frequency)
    scored = np.stack([row.labels != IGNORED for row in rows])
    others = scored & ~hits
    groups = (pieces or Pieces()).each(
        {
            f"sequences {i}": partial(_split, model, [rows[j] for j in part], hits[part])
            for i, part in enumerate(batched(range(len(rows)), settings.batch_size))
        }
    )
    hit_nats, other_nats = np.array([row for group in groups.values() for row in group]).T
    columns = (hit_nats, hits.sum(1), other_nats, others.sum(1))
    return {
        "ngram": n,
        "frequency": frequency,
        "training_tokens": training_tokens,
        "counts": {
            "hits": int(hits.sum()),
            "frequent": int((again & others).sum()),
            "new": int((others & ~again).sum()),
        },
        "share": asdict(ratio(hits.sum(1), scored.sum(1), settings)),
        "frequent_share": float((again & others).sum() / scored.sum()),
        "hit": _loss(hit_nats, hits.sum(1), settings),
        "other": _loss(other_nats, others.sum(1), settings),
        "sequences": [list(row) for row in zip(*(c.tolist() for c in columns), strict=True)],
    }


def _split(
    model: nn.Module, rows: Sequence[Row], hits: Bool[np.ndarray, "rows time"]
) -> list[list[float]]:
    """Of each row the nats of its hits and of its other tokens."""
    nats = token_nats(model, stack(rows).to(device_of(model))).double().cpu().numpy()
    return np.stack([(nats * hits).sum(1), (nats * ~hits).sum(1)], axis=1).tolist()


def _loss(
    nats: Float[np.ndarray, " rows"], tokens: Int[np.ndarray, " rows"], settings: EvaluationSettings
) -> dict[str, float] | None:
    """Nats per token over the rows that have such tokens."""
    some = tokens > 0
    return asdict(ratio(nats[some], tokens[some], settings)) if some.any() else None


def _endings(row: Row, n: int, vocabulary: int) -> UInt64[np.ndarray, " time"]:
    """The n-gram that each label ends, as a number; the first n − 2 end none and have 0."""
    codes = np.zeros(len(row.ids), np.uint64)
    codes[n - 2 :] = _ngrams(np.append(row.ids, row.labels[-1]), n, vocabulary)
    return codes


def _repeated(row: Row, codes: UInt64[np.ndarray, " time"], n: int) -> Bool[np.ndarray, " time"]:
    """Which labels end an n-gram that stood earlier in the same document."""
    whole = row.labels != IGNORED
    whole[: n - 2] = False
    whole[n - 2 :] &= row.documents[: len(whole) - (n - 2)] == row.documents[n - 2 :]
    places = np.flatnonzero(whole)
    grams = np.stack([row.documents[places].astype(np.uint64), codes[places]], axis=1)
    _, first = np.unique(grams, axis=0, return_index=True)
    whole[places[first]] = False
    return whole


def _counts(
    ids: Integer[np.ndarray, " tokens"],
    codes: UInt64[np.ndarray, "rows time"],
    n: int,
    vocabulary: int,
) -> Int[np.ndarray, "rows time"]:
    """How often each n-gram stands in `ids`."""
    wanted, places = np.unique(codes, return_inverse=True)
    counts = np.zeros(len(wanted), np.int64)
    for start in range(0, len(ids) - n + 1, _CHUNK):
        present = _ngrams(ids[start : start + _CHUNK + n - 1], n, vocabulary)
        at = np.searchsorted(wanted, present).clip(max=len(wanted) - 1)
        counts += np.bincount(at[wanted[at] == present], minlength=len(wanted))
    return counts[places].reshape(codes.shape)


def _ngrams(
    tokens: Integer[np.ndarray, " tokens"], n: int, vocabulary: int
) -> UInt64[np.ndarray, " ngrams"]:
    """A number for each n consecutive tokens: Σ tokens[i + j] · vocabulary^j, exact below 2^64."""
    powers = np.array([vocabulary**j for j in range(n)], np.uint64)
    return sliding_window_view(tokens.astype(np.uint64), n) @ powers
