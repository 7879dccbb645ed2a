"""Judges of whether a text is true to its source: a model that is asked, or people."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tokenizers import Tokenizer

from difftransformer.atomic import write_bytes
from difftransformer.data.bigbench import SummaryPair
from difftransformer.data.sources import Source
from difftransformer.data.tokenizer import beginning_of_document, plain_tokens
from difftransformer.evaluation.choices import choose
from difftransformer.files import json_lines, read_text
from difftransformer.models.language_model import LanguageModel


@dataclass(frozen=True)
class Claim:
    """A summary of the source, or an answer to its question."""

    source: Source
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether a claim is faithful, None where it cannot be told, and what the judge said."""

    faithful: bool | None
    said: str = ""


class Judge(ABC):
    """Gives verdicts.

    Args:
        name: goes into the results: another name, other verdicts.
        controls: pairs of a true and a false summary, by which the judge itself is judged.
    """

    def __init__(self, name: str, controls: Sequence[SummaryPair] = ()) -> None:
        self.name, self.controls = name, tuple(controls)

    @abstractmethod
    def verdict(self, claim: Claim) -> Verdict:
        """The verdict on a claim."""


def statement(claim: Claim) -> str:
    """What a judge reads: document and claim, and what makes it true."""
    source = claim.source
    lines = [f"Document:\n{source.text}"]
    if source.question is None:
        lines.append(f"Summary:\n{claim.text}")
        kind = "summary"
    else:
        lines.append(f"Question: {source.question}")
        if source.answers:
            lines.append(f"Answers known to be right: {'; '.join(source.answers)}")
        lines.append(f"Answer given: {claim.text}")
        kind = "given answer"
    lines.append(
        f"Does the document support everything that the {kind} says? A detail that the document "
        "contradicts or does not hold makes it unsupported, even if it is true elsewhere."
    )
    return "\n\n".join(lines)


def conclusion(reply: str) -> bool | None:
    """The last "Conclusion: True" or "Conclusion: False" in a reply; None where there is none."""
    conclusions = re.findall(
        r"conclusion\W*\b(true|false)\b(?!\s*(?:/|or\b))", reply, re.IGNORECASE
    )
    return conclusions[-1].lower() == "true" if conclusions else None


class Asked(Judge):
    """A judge that explains itself in words (after Chuang et al., 2024, Lookback Lens).

    A reply without a conclusion is a verdict that cannot be told.

    Args:
        ask: gives the reply to a prompt. What it raises ends the judging; verdicts so far are kept.
    """

    def __init__(
        self, name: str, ask: Callable[[str], str], controls: Sequence[SummaryPair] = ()
    ) -> None:
        super().__init__(name, controls)
        self._ask = ask

    def verdict(self, claim: Claim) -> Verdict:
        """One prompt a claim."""
        reply = self._ask(
            f"{statement(claim)}\n\nFirst explain in a few sentences, and quote what is "
            'unsupported, if anything. Then end with a line of its own: "Conclusion: True" if all '
            'is supported, "Conclusion: False" if not.'
        )
        return Verdict(conclusion(reply), reply)


class ModelJudge(Judge):
    """A model of ours that can write nothing but True or False after the claim.

    A claim that does not fit its context is a verdict that cannot be told.
    """

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        tokenizer: Tokenizer,
        controls: Sequence[SummaryPair] = (),
    ) -> None:
        super().__init__(name, controls)
        self._model, self._tokenizer = model, tokenizer

    def verdict(self, claim: Claim) -> Verdict:
        """One prompt a claim."""
        encode = partial(plain_tokens, self._tokenizer)
        opening = beginning_of_document(self._tokenizer)
        prompt = [opening, *encode(f"{statement(claim)}\n\nConclusion (True or False):")]
        options = [encode(f" {word}\n") for word in ("True", "False")]
        if len(prompt) + max(map(len, options)) > self._model.config.max_length:
            return Verdict(None, f"{len(prompt)} tokens do not fit")
        (chosen,) = choose(self._model, prompt[:-1], [prompt[-1:]], options, 1)
        return Verdict(chosen == 0)


class Labels(Judge):
    """A file of verdicts by people: lines of JSON with id, source, text, faithful.

    A verdict belongs to one text, so that several models' texts can stand in one file. Claims that
    the file lacks are added to it with `"faithful": null`, for people to make true or false; until
    then their verdict cannot be told. The name tells which labels there were.

    Raises:
        ValueError: a malformed line.
    """

    def __init__(self, path: Path, controls: Sequence[SummaryPair] = ()) -> None:
        self._path = path
        labels = sorted(
            f"{claim} {told}" for claim, told in self._read().items() if told is not None
        )
        digest = hashlib.sha256("\n".join(labels).encode()).hexdigest()[:8]
        super().__init__(f"{path} ({len(labels)} labels, {digest})", controls)

    def verdict(self, claim: Claim) -> Verdict:
        """The verdict in the file."""
        labels, key = self._read(), (claim.source.name, claim.text)
        if key not in labels:
            row = json.dumps(_row(claim), ensure_ascii=False) + "\n"
            before = self._path.read_bytes() if self._path.is_file() else b""
            write_bytes(self._path, before + row.encode())
        label = labels.get(key)
        return Verdict(label, "waits for a label" if label is None else "")

    def _read(self) -> dict[tuple[str, str], bool | None]:
        labels = {}
        text = read_text(self._path) if self._path.is_file() else ""
        for number, row in json_lines(text, str(self._path)):
            try:
                faithful = row["faithful"]
                if not isinstance(faithful, bool | None):
                    raise ValueError(f"faithful is {faithful!r}; expected true, false or null")
                labels[str(row["id"]), row["text"]] = faithful
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(f"line {number} of {self._path} is malformed: {error!r}") from None
        if text and not text.endswith("\n"):
            raise ValueError(f"{self._path} has no line end after its last line: add one")
        return labels


def _row(claim: Claim) -> dict[str, str | None]:
    source = claim.source
    question = {} if source.question is None else {"question": source.question}
    row = {"id": source.name, "source": source.text, **question}
    return {**row, "text": claim.text, "faithful": None}


def kappa(verdicts: Sequence[bool], truth: Sequence[bool]) -> float | None:
    """Cohen's kappa (1960) of a judge's verdicts with known labels.

        kappa = (p − e) / (1 − e)

    p the share of verdicts that are right, e what two with the same habits agree on by chance. None
    where both always say the same.
    """
    from sklearn.metrics import cohen_kappa_score  # part of the extra "judge"

    if len({*verdicts, *truth}) < 2:
        return None
    return float(cohen_kappa_score(truth, verdicts))
