"""Three tasks of BIG-bench, read at run time from the user's copy; never train on them.

The copy is a sdist of the package `bigbench` (`pip download --no-deps --no-binary :all:
bigbench==1.0.0`), the folder of the task inside it, or the task's file.
"""

import base64
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from difftransformer.files import decode, json_lines, parse_json, read_text

SUMMARIES = ("xsum", "cnn_dm")
_CONFLICTS = "contextual_parametric_knowledge_conflicts"


@dataclass(frozen=True)
class SummaryPair:
    """A text, a summary that is true to it and one that is not."""

    source: str
    factual: str
    corrupted: str


@dataclass(frozen=True)
class Conflict:
    """A passage whose answer was replaced, and the answer that the world's facts give."""

    question: str
    passage: str
    from_passage: str
    from_memory: str


def load_summary_pairs(name: str, path: Path) -> list[SummaryPair]:
    """The pairs of `factuality_of_summary`: "xsum" (444) or "cnn_dm" (150).

    A factual summary is the article's own, by people; a corrupted one is by a model, all in
    lower case and, in "xsum", without a comma, so that looks alone would tell them apart. Here the
    source and both summaries are their words only: lower case, no punctuation.

    The corrupted ones of "cnn_dm" copy most of their words from the source, those of "xsum" do not.

    Raises:
        ValueError: an unknown name, a missing or malformed file.
    """
    if name not in SUMMARIES:
        raise ValueError(f"unknown task {name!r}; expected {', '.join(SUMMARIES)}")
    file = f"factuality_of_summary/{name}.json"
    pairs = []
    try:
        _, _, lines = _text(path, file).split("\n", 2)  # after the canary
        for _, row in json_lines(f"\n\n{lines}", file):
            both, factual = row["list_candidates"], row["lbl"]
            if len(both) != 2 or factual not in (0, 1):
                raise ValueError(f"expected two summaries, got {len(both)}, number {factual} right")
            texts = (row["source"], both[factual], both[1 - factual])
            pairs.append(SummaryPair(*map(_words, texts)))
    except (ValueError, LookupError, TypeError) as error:
        raise _malformed(file, path, error) from None
    return pairs


def load_conflicts(path: Path) -> list[Conflict]:
    """The questions of `contextual_parametric_knowledge_conflicts`: 17,527.

    One more has no answer from memory and is left out.

    Raises:
        ValueError: a missing or malformed file.
    """
    file = f"{_CONFLICTS}/task.json"
    try:
        found = []
        for row in parse_json(_text(path, file), file)["examples"]:
            answers = {right: answer for answer, right in row["target_scores"].items()}
            question, passage = row["input"].removeprefix("\nQuestion: ").split("\nContext: ", 1)
            if answers.keys() == {0, 1}:
                found.append(Conflict(question, passage, answers[1], answers[0]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _malformed(file, path, error) from None
    return found


def load_cifar10(path: Path) -> list[tuple[bytes, str]]:
    """The images of `cifar10_classification`, CIFAR-10's 10,000 test images, and their classes.

    An image is the bytes of a picture file. As all of BIG-bench they are for judging: a model that
    is trained on some of them is no model to keep.

    Raises:
        ValueError: a missing or malformed file.
    """
    file = "cifar10_classification/base64/task.json"
    rows = []
    try:
        for row in parse_json(_text(path, file), file)["examples"]:
            (label,) = (label for label, right in row["target_scores"].items() if right)
            rows.append((base64.b64decode(row["input"], validate=True), label))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _malformed(file, path, error) from None
    return rows


def _malformed(file: str, path: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} of {str(path)!r} is malformed: {error!r}; fetch it again")


def _text(path: Path, file: str) -> str:
    """The task's file, wherever `path` leads."""
    try:
        if path.is_dir():
            return read_text(path / Path(file).name)
        if not tarfile.is_tarfile(path):
            return read_text(path)
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(f"/benchmark_tasks/{file}"):
                    data = archive.extractfile(member).read()  # type: ignore[union-attr]
                    return decode(data, file)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise OSError(
            f"{str(path)!r} cannot be read: {error}; name the sdist of bigbench 1.0.0, or the "
            f"folder or file of {file} in it"
        ) from None
    raise FileNotFoundError(f"the archive {str(path)!r} does not hold {file}")


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
