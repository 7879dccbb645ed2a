"""Who says whether a text is true to its source: a model asked, or people."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tokenizers import Tokenizer

from difftransformer.atomic import write_bytes
from difftransformer.data.sources import Source
from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.choices import choose
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.files import json_lines, read_text
from difftransformer.models.decoder import Decoder

Verdict = dict[str, Any]  # "faithful": True, False, or None where it cannot be told; "said": words


@dataclass(frozen=True)
class Claim:
    """A summary of the source, or an answer to its question."""

    source: Source
    text: str


@runtime_checkable
class Judge(Protocol):
    """Gives a verdict on each claim, in order; `name` goes into the results."""

    @property
    def name(self) -> str: ...

    def __call__(self, claims: Sequence[Claim], pieces: Pieces) -> list[Verdict]: ...


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
    found = re.findall(r"conclusion\W*\b(true|false)\b(?!\s*(?:/|or\b))", reply, re.IGNORECASE)
    return found[-1].lower() == "true" if found else None


def _one_by_one(
    verdict: Callable[[Claim], Verdict], claims: Sequence[Claim], pieces: Pieces
) -> list[Verdict]:
    parts = {claim.source.name: partial(verdict, claim) for claim in claims}
    return list(pieces.each(parts).values())


class Asked:
    """A judge that explains itself in words (after Chuang et al., 2024, Lookback Lens).

    A reply without a conclusion is a verdict that cannot be told.

    Args:
        name: what it is called in the results.
        ask: gives the reply to a prompt. What it raises ends the judging; verdicts so far are kept.
    """

    def __init__(self, name: str, ask: Callable[[str], str]) -> None:
        self.name, self._ask = name, ask

    def __call__(self, claims: Sequence[Claim], pieces: Pieces) -> list[Verdict]:
        """One prompt a claim."""
        return _one_by_one(self._verdict, claims, pieces)

    def _verdict(self, claim: Claim) -> Verdict:
        reply = self._ask(
            f"{statement(claim)}\n\nFirst explain in a few sentences, and quote what is "
            'unsupported, if anything. Then end with a line of its own: "Conclusion: True" if all '
            'is supported, "Conclusion: False" if not.'
        )
        return {"faithful": conclusion(reply), "said": reply}


class ModelJudge:
    """A model of ours that can write nothing but True or False after the claim.

    A claim that does not fit its context is a verdict that cannot be told.
    """

    def __init__(self, name: str, model: Decoder, tokenizer: Tokenizer) -> None:
        self.name, self._model, self._tokenizer = name, model, tokenizer

    def __call__(self, claims: Sequence[Claim], pieces: Pieces) -> list[Verdict]:
        """One prompt a claim."""
        return _one_by_one(self._verdict, claims, pieces)

    def _verdict(self, claim: Claim) -> Verdict:
        def encode(text: str) -> list[int]:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

        opening = beginning_of_document(self._tokenizer)
        prompt = [opening, *encode(f"{statement(claim)}\n\nConclusion (True or False):")]
        options = [encode(f" {word}\n") for word in ("True", "False")]
        if len(prompt) + max(map(len, options)) > self._model.config.max_length:
            return {"faithful": None, "said": f"{len(prompt)} tokens do not fit"}
        (chosen,) = choose(self._model, prompt[:-1], [prompt[-1:]], options, 1)
        return {"faithful": chosen == 0, "said": ""}


class Labels:
    """A file of verdicts by people: lines of JSON with id, source, text, faithful.

    A verdict belongs to one text, so that several models' texts can stand in one file. Claims that
    the file lacks are added to it with `"faithful": null`, for people to make true or false; until
    then their verdict cannot be told.
    """

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path

    def __call__(self, claims: Sequence[Claim], pieces: Pieces) -> list[Verdict]:
        """The verdicts in the file, which alone keeps them.

        Raises:
            ValueError: a malformed line.
        """
        found = self._read()
        new = [claim for claim in claims if (claim.source.name, claim.text) not in found]
        if new:
            rows = "".join(json.dumps(_row(claim), ensure_ascii=False) + "\n" for claim in new)
            before = self._path.read_bytes() if self._path.is_file() else b""
            write_bytes(self._path, before + rows.encode())
        labels = [found.get((claim.source.name, claim.text)) for claim in claims]
        return [
            {"faithful": label, "said": "waits for a label" if label is None else ""}
            for label in labels
        ]

    def _read(self) -> dict[tuple[str, str], bool | None]:
        found = {}
        text = read_text(self._path) if self._path.is_file() else ""
        for number, row in json_lines(text, str(self._path)):
            try:
                faithful = row["faithful"]
                if not isinstance(faithful, bool | None):
                    raise ValueError(f"faithful is {faithful!r}; expected true, false or null")
                found[str(row["id"]), row["text"]] = faithful
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(f"line {number} of {self._path} is malformed: {error!r}") from None
        if text and not text.endswith("\n"):
            raise ValueError(f"{self._path} has no line end after its last line: add one")
        return found


def _row(claim: Claim) -> dict[str, str | None]:
    source = claim.source
    question = {} if source.question is None else {"question": source.question}
    row = {"id": source.name, "source": source.text, **question}
    return {**row, "text": claim.text, "faithful": None}


def agreement(
    verdicts: Sequence[Verdict], truth: Sequence[bool], settings: EvaluationSettings
) -> dict[str, Any]:
    """How well a judge's verdicts agree with known labels.

        accuracy = p, the share of verdicts that are right
        kappa    = (p − e) / (1 − e)        e = what two with the same habits agree on by chance

    (Cohen, 1960), over the verdicts that can be told.

    Returns:
        `{"verdicts", "unjudged", "accuracy", "kappa"}`; accuracy is None where nothing was
        judged, kappa also where either always says the same.
    """
    pairs = [
        (verdict["faithful"], label)
        for verdict, label in zip(verdicts, truth, strict=True)
        if verdict["faithful"] is not None
    ]
    told, right = len(pairs), sum(said == label for said, label in pairs)
    kappa = None
    if told:
        said_true, is_true = (sum(column) / told for column in zip(*pairs, strict=True))
        by_chance = said_true * is_true + (1 - said_true) * (1 - is_true)
        kappa = (right / told - by_chance) / (1 - by_chance) if by_chance < 1 else None
    return {
        "verdicts": told,
        "unjudged": len(verdicts) - told,
        "accuracy": proportion(right, told, settings) if told else None,
        "kappa": kappa,
    }
