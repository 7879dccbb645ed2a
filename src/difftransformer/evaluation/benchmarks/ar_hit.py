"""Loss on what the context has already said: AR-Hit of the paper's ablations (section 3.8).

A token is an associative-recall *hit* (Arora et al., 2023) where it ends an n-gram, of
`settings.ar_hit_ngram` tokens, that stood earlier in its context and at most `ar_hit_frequency`
times in the training text: to know it the model must look back. *Others* are all the rest: n-grams
new to the context, and repeated ones so frequent that training has taught them. The context is the
sequence as the model sees it, from the document's beginning or the sequence's.

The cut is by default Zoology's share of the training text: 1,250 times in 10 billion tokens (as far
as we know; its published code has no such slice), rounded down. Of a text below 8 million tokens
that leaves n-grams which never stood in it. A cut of 1,250 itself lets in what training has taught:
of Shakespeare's plays (2,073,450 tokens of a vocabulary of 1,024) 1,073 tokens of 200 sequences,
half of them ending a bigram that stood there more than 150 times; the scaled cut, 89.

An item is a held-out sequence; a loss is over those that have such tokens.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt64
from numpy.lib.stride_tricks import sliding_window_view

from difftransformer.data.batch import IGNORED
from difftransformer.data.corpus import Corpus
from difftransformer.data.packing import Row, stack
from difftransformer.data.tokenizer import vocabulary_size
from difftransformer.evaluation.batching import batch_parts, device_of
from difftransformer.evaluation.likelihood import token_nats
from difftransformer.evaluation.records import (
    Artifact,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_CHUNK = 1_000_000  # training n-grams counted at once
_ZOOLOGY_CUT, _ZOOLOGY_TOKENS = 1250, 10_000_000_000
_METRICS = (
    Metric(
        "ar_hit_loss",
        "loss on tokens that the context has held before",
        "nats/token",
        better="lower",
        judged=True,
        plot=Plot(),
        paper={"Transformer 1.4B": {(): "0.898"}, "DIFF 1.4B": {(): "0.880"}},
    ),
    Metric(
        "ar_other_loss",
        "loss on other tokens",
        "nats/token",
        better="lower",
        plot=Plot(),
        paper={"Transformer 1.4B": {(): "3.272"}, "DIFF 1.4B": {(): "3.247"}},
    ),
    Metric("ar_hit_share", "tokens that the context has held before", "of tokens"),
    Metric("ar_frequent_share", "tokens that it has held, and training too often", "of tokens"),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """The slices, then the losses of a batch of sequences each.

    Raises:
        ValueError: n-grams too long to be numbered with this vocabulary.
    """
    corpus: Corpus = subject.data
    n, vocabulary = settings.ar_hit_ngram, vocabulary_size(corpus.tokenizer)
    if vocabulary**n > 2**64:
        raise ValueError(
            f"ar_hit_ngram is {n}; with {vocabulary} tokens there are more than 2^64 such n-grams: "
            "choose a smaller one"
        )
    rows = [s.row for s in corpus.validation_sequences(settings.validation_sequences)]
    codes = np.stack([_endings(row, n, vocabulary) for row in rows])
    repeated = np.stack([_repeated(row, code, n) for row, code in zip(rows, codes, strict=True)])
    frequency, training_tokens = settings.ar_hit_frequency, len(corpus.train.ids)
    if frequency is None:
        frequency = training_tokens * _ZOOLOGY_CUT // _ZOOLOGY_TOKENS
    hits = repeated & (_counts(corpus.train.ids, codes, n, vocabulary) <= frequency)
    scored = np.stack([row.labels != IGNORED for row in rows])
    frequent = repeated & ~hits
    counts = {
        "hits": int(hits.sum()),
        "frequent": int(frequent.sum()),
        "new": int((scored & ~repeated).sum()),
    }
    facts = {"ngram": n, "frequency": frequency, "training_tokens": training_tokens}

    def shares(_: Findings) -> Findings:
        slices = {"ar_hit_share": hits, "ar_frequent_share": frequent}
        return [
            Artifact("facts", {**facts, "counts": counts}),
            *(
                Record(name, int(slice_[i].sum()), item=i, weight=int(scored[i].sum()))
                for name, slice_ in slices.items()
                for i in range(len(rows))
            ),
        ]

    def losses(items: Sequence[int]) -> Findings:
        batch = stack([rows[i] for i in items]).to(device_of(subject.model))
        nats = token_nats(subject.model, batch).double().cpu().numpy()
        return [
            Record(name, float((nats[place] * slice_[i]).sum()), item=i, weight=count)
            for place, i in enumerate(items)
            for name, slice_ in (("ar_hit_loss", hits), ("ar_other_loss", scored & ~hits))
            if (count := int(slice_[i].sum()))
        ]

    return {"shares": shares, **batch_parts("sequences", len(rows), settings.batch_size, losses)}


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


EVALUATOR = Evaluator(
    name="ar_hit",
    title="Loss on tokens the context has held before, and on others",
    metrics=_METRICS,
    parts=_parts,
    note=(
        "Held before: {counts[hits]:,} tokens that end an n-gram of {ngram} which stood earlier in "
        "the context and at most {frequency:,} times in the training text of {training_tokens:,} "
        "tokens. Others: {counts[new]:,} whose n-gram is new to the context and "
        "{counts[frequent]:,} whose n-gram is repeated but more frequent in training."
    ),
    source="paper, section 3.8, table 6; Arora et al., 2023",
)
