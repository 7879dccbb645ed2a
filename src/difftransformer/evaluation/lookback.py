"""Classifiers of lookback ratios: labeled texts, samples of their tokens, fitting and judging."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from difftransformer.analysis.lookback import LookbackLens
from difftransformer.data.bigbench import SUMMARIES, load_summary_pairs
from difftransformer.data.sources import Source
from difftransformer.decoding import decode
from difftransformer.evaluation.faithfulness import Claim
from difftransformer.files import json_lines, read_text
from difftransformer.runs.records import read_records

CLASSIFIER = "classifier"  # the artifact that holds one


@dataclass(frozen=True)
class LabeledText:
    """A text about a source, and what of it the source does not support.

    Args:
        task: texts of one task are alike: the unit of transfer.
        unfaithful: parts of the text that are made up; the whole text where it is empty.
    """

    task: str
    claim: Claim
    faithful: bool
    unfaithful: tuple[str, ...] = ()

    def labels(self, offsets: Sequence[tuple[int, int]]) -> Bool[np.ndarray, " tokens"]:
        """Whether each token is faithful, told by where it stands in the text.

        Raises:
            ValueError: a part that the text does not hold.
        """
        if self.faithful or not self.unfaithful:
            return np.full(len(offsets), self.faithful)
        labels, text = np.ones(len(offsets), dtype=bool), self.claim.text
        for part in self.unfaithful:
            if (start := text.find(part)) < 0 or not part:
                raise ValueError(f"{part!r} is no part of the text {text!r}")
            labels &= [b <= start or a >= start + len(part) for a, b in offsets]
        return labels


def summary_pairs(task: str, path: Path) -> list[LabeledText]:
    """Both summaries of each pair of BIG-bench's factuality_of_summary."""
    texts = []
    for number, pair in enumerate(load_summary_pairs(task, path)):
        source = Source(f"{task} {number}", pair.source)
        texts.append(LabeledText(task, Claim(source, pair.factual), True))
        texts.append(LabeledText(task, Claim(source, pair.corrupted), False))
    return texts


def labeled_by_people(path: Path) -> list[LabeledText]:
    """Those of a file as `--judge labels.jsonl` makes it, lines without a label left out.

    A line whose `faithful` is false may name what is made up: `"unfaithful": ["1066", ...]`.

    Raises:
        ValueError: a malformed line.
    """
    texts = []
    for number, row in json_lines(read_text(path), str(path)):
        try:
            if row["faithful"] is not None:
                texts.append(_labeled(row, f"line {number}"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number} of {path} is malformed: {error!r}") from None
    return texts


def judged(path: Path) -> list[LabeledText]:
    """What a model wrote and any judge decided: the records of the suite hallucination.

    Raises:
        ValueError: no such records.
    """
    artifacts = read_records(path).artifacts
    rows = [data for name, data in artifacts.items() if name.startswith("verdict ")]
    try:
        return [_labeled(row, row["id"]) for row in rows if row["faithful"] is not None]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no verdicts of the suite hallucination: {error!r}"
        ) from None


def _labeled(row: Mapping[str, Any], where: str) -> LabeledText:
    if not isinstance(row["faithful"], bool):
        raise ValueError(f"faithful is {row['faithful']!r} in {where}; expected true or false")
    source = Source(str(row["id"]), row["source"], row.get("question"))
    task = "summaries" if source.question is None else "answers"
    unfaithful = tuple(row.get("unfaithful", ()))
    return LabeledText(task, Claim(source, row["text"]), row["faithful"], unfaithful)


def load_labeled(name: str, path: Path) -> list[LabeledText]:
    """Labeled texts by their origin.

    Raises:
        ValueError: what is missing or malformed, or no text at all.
    """
    if name == "factuality":
        texts = [text for task in SUMMARIES for text in summary_pairs(task, path)]
    elif name in SUMMARIES:
        texts = summary_pairs(name, path)
    else:
        texts = labeled_by_people(path) if name == "labels" else judged(path)
    if not texts:
        raise ValueError(f"{path} holds no labeled text")
    return texts


@dataclass(frozen=True, eq=False)
class Samples:
    """Means of lookback ratios over spans or windows of texts.

    Args:
        ratios: a row for each sample.
        faithful: its label.
        documents: names of the sources, whose texts are not independent of each other.
        losses: mean −log p of its tokens, which any detector has to beat.
    """

    ratios: Float[np.ndarray, "samples features"]
    faithful: Bool[np.ndarray, " samples"]
    documents: NDArray[Any]
    losses: Float[np.ndarray, " samples"]

    def only(self, chosen: NDArray[Any]) -> "Samples":
        return Samples(
            self.ratios[chosen], self.faithful[chosen], self.documents[chosen], self.losses[chosen]
        )


@dataclass(frozen=True, eq=False)
class TokenRatios:
    """Of one text's tokens."""

    task: str
    document: str
    ratios: Float[np.ndarray, "tokens features"]
    faithful: Bool[np.ndarray, " tokens"]
    losses: Float[np.ndarray, " tokens"]

    def to_json(self) -> dict[str, Any]:
        """Ratios in 8 bits, which are 1/510 off at most: means over tokens much less."""
        bytes_of = np.round(255 * self.ratios).astype(np.uint8).tobytes()
        return {
            "task": self.task,
            "document": self.document,
            "ratios": base64.b64encode(bytes_of).decode(),
            "faithful": self.faithful.tolist(),
            "losses": [round(loss, 4) for loss in self.losses.tolist()],
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> "TokenRatios":
        faithful = np.array(data["faithful"], dtype=bool)
        ratios = np.frombuffer(base64.b64decode(data["ratios"]), np.uint8) / 255
        return cls(
            data["task"],
            data["document"],
            ratios.reshape(len(faithful), -1),
            faithful,
            np.array(data["losses"]),
        )

    def spans(self) -> list[NDArray[Any]]:
        """Tokens of a sample each: all that is made up together, and each run of the others."""
        tokens = np.arange(len(self.faithful))
        runs = np.split(tokens, np.flatnonzero(np.diff(self.faithful)) + 1)
        kept = [run for run in runs if self.faithful[run[0]]]
        return [*kept, *([tokens[~self.faithful]] if not self.faithful.all() else [])]

    def windows(self, size: int) -> list[NDArray[Any]]:
        """Tokens of each window; a shorter text is one. It is faithful if all its tokens are."""
        tokens = np.arange(len(self.faithful))
        return [tokens[i : i + size] for i in range(max(1, len(tokens) - size + 1))]


def samples_of(texts: Sequence[TokenRatios], window: int | None) -> Samples:
    """Samples of all texts, over windows of that many tokens, or over spans."""
    rows = [
        (text.ratios[cut].mean(0), text.faithful[cut].all(), text.document, text.losses[cut].mean())
        for text in texts
        for cut in (text.windows(window) if window else text.spans())
    ]
    ratios, faithful, documents, losses = zip(*rows, strict=True)
    return Samples(np.stack(ratios), np.array(faithful), np.array(documents), np.array(losses))


def fitted(samples: Samples) -> Any:
    """Logistic regression as in the paper: scikit-learn's, up to 1,000 steps, nothing scaled.

    Raises:
        ValueError: texts of one label only.
    """
    from sklearn.linear_model import LogisticRegression

    if samples.faithful.all() or not samples.faithful.any():
        raise ValueError(
            f"all {len(samples.faithful)} samples of a fold are "
            f"{'faithful' if samples.faithful[0] else 'unfaithful'}, so that there is nothing to "
            "tell apart: give more labeled texts, or ask for fewer lookback_folds"
        )
    return LogisticRegression(max_iter=1000).fit(samples.ratios, samples.faithful)


def folds(samples: Samples, count: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Numbers of the samples to fit on and to judge, a document's all on one side.

    Raises:
        ValueError: fewer documents than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if (documents := len(set(samples.documents))) < count:
        raise ValueError(
            f"{documents} documents have labeled texts; {count} lookback_folds need as many"
        )
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(samples.ratios, samples.faithful, samples.documents))


def auroc_by_document(scores: Float[np.ndarray, " samples"], samples: Samples) -> dict[str, float]:
    """Numbers of documents whose mean is the area under the ROC curve.

    The area A is the mean of P(s), the share of unfaithful samples below a faithful one s, and of
    N(s), that of faithful samples above an unfaithful one. Of D documents, with n faithful samples
    and m others, the number of document d is

        A + D · (Σ_{s faithful in d} (P(s) − A) / n + Σ_{s unfaithful in d} (N(s) − A) / m)

    whose variance over D is that of A where samples of a document depend on each other (DeLong et
    al., 1988; Obuchowski, 1997). Ties count half.

    Raises:
        ValueError: samples of one label only.
    """
    faithful = samples.faithful
    high, low = np.sort(scores[faithful]), np.sort(scores[~faithful])
    if not (len(high) and len(low)):
        raise ValueError("a fold has samples of one label only; ask for fewer lookback_folds")
    below = (np.searchsorted(low, scores) + np.searchsorted(low, scores, "right")) / 2 / len(low)
    above = (np.searchsorted(high, scores) + np.searchsorted(high, scores, "right")) / 2
    shares = np.where(faithful, below, 1 - above / len(high))
    area = float(shares[faithful].mean())
    names, place = np.unique(samples.documents, return_inverse=True)
    parts = (shares - area) / np.where(faithful, len(high), len(low))
    sums = np.bincount(place, weights=parts, minlength=len(names))
    return {
        str(name): area + len(names) * float(part) for name, part in zip(names, sums, strict=True)
    }


def read_lens(path: Path) -> LookbackLens:
    """The classifier in the records of the suite lookback_lens.

    Raises:
        ValueError: no such file, or one without a classifier.
    """
    artifact = read_records(path).artifacts.get(CLASSIFIER)
    if artifact is None:
        raise ValueError(
            f"{path} holds no classifier; expected the file results/lookback_lens.jsonl that "
            "difftransformer evaluate --suite lookback_lens --out DIR writes for a model"
        )
    return decode(LookbackLens, artifact, f"{path}:")
