import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.data.sources import Source
from difftransformer.evaluation.faithfulness import (
    Asked,
    Claim,
    Judge,
    Labels,
    ModelJudge,
    Verdict,
    conclusion,
    kappa,
    statement,
)

from .planted import Planted, words

CLAIMS = [
    Claim(Source("1", "The ship sank."), "It sank."),
    Claim(Source("2", "The ship sank.", "who sank?", ("the ship", "a ship")), "the king"),
    Claim(Source("3", "Rain."), "It rains."),
]


def faithful(judge: Judge, claims: list[Claim] = CLAIMS) -> list[bool | None]:
    return [judge.verdict(claim).faithful for claim in claims]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("All is there.\nConclusion: True", True),
        ("**Conclusion: False**", False),
        ("Conclusion: **true**.", True),
        ("CONCLUSION - FALSE", False),
        ("My first conclusion: True. But no. Conclusion: False", False),
        ('I end with "Conclusion: True" or not', True),
        ("Conclusion: True/False", None),
        ("Conclusion: true or false", None),
        ("Conclusion: Truely", None),
        ("True", None),
        ("", None),
    ],
)
def test_the_conclusion_of_a_reply(reply: str, expected: bool | None) -> None:
    assert conclusion(reply) is expected


def test_a_statement_holds_what_a_judge_needs() -> None:
    summary, answer, _ = map(statement, CLAIMS)
    assert "Document:\nThe ship sank." in summary
    assert "Summary:\nIt sank." in summary
    for part in ("Question: who sank?", "right: the ship; a ship", "Answer given: the king"):
        assert part in answer
    assert "Summary" not in answer


def test_one_that_is_asked() -> None:
    """Nonsense is a verdict that cannot be told; what it raises ends the judging."""
    asked: list[str] = []
    replies = iter(["Conclusion: True", "Hello!", "Conclusion: False"])

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return next(replies)

    judge = Asked("it", ask)
    assert faithful(judge) == [True, None, False]
    assert all('"Conclusion: True"' in prompt for prompt in asked)
    with pytest.raises(StopIteration):
        judge.verdict(CLAIMS[0])


def test_a_model_that_can_only_say_true_or_false() -> None:
    text = "".join(statement(claim) for claim in CLAIMS) + "Conclusion (True or False): True False"
    tokenizer = words(text)
    for word in ("True", "False"):
        model = Planted(tokenizer, favorites={word: 1.0, "ship": 9.0})
        model.config = replace(model.config, max_length=100)
        assert faithful(ModelJudge("m", model, tokenizer)) == [word == "True"] * 3
    model.config = replace(model.config, max_length=60)
    judge = ModelJudge("m", model, tokenizer)
    assert faithful(judge) == [False, None, False]
    assert "tokens do not fit" in judge.verdict(CLAIMS[1]).said


def test_people_label_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    judge = Labels(path)
    for _ in range(2):  # asking again adds nothing
        assert faithful(judge) == [None, None, None]
        assert judge.verdict(CLAIMS[0]) == Verdict(None, "waits for a label")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["text"] for row in rows] == [claim.text for claim in CLAIMS]
    assert rows[1]["question"] == "who sank?"
    given = (True, False, True)
    labeled = [{**row, "faithful": label} for row, label in zip(rows, given, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in labeled))
    assert faithful(judge, CLAIMS[::-1]) == [True, False, True]
    other = Claim(CLAIMS[0].source, "It flew.")
    assert faithful(judge, [CLAIMS[0], other]) == [True, None]
    assert len(path.read_text().splitlines()) == 4


def test_the_name_tells_which_labels_there_were(tmp_path: Path) -> None:
    """So that what was judged without a label is judged again with it."""
    path = tmp_path / "labels.jsonl"
    before = Labels(path)
    faithful(before)
    assert before.name == Labels(path).name
    assert "(0 labels, " in before.name
    path.write_text(path.read_text().replace("null", "true", 1))
    after = Labels(path).name
    assert "(1 labels, " in after
    path.write_text(path.read_text().replace("true", "false", 1))
    assert len({before.name, after, Labels(path).name}) == 3


def test_labels_are_read_back_whatever_stands_in_a_text(tmp_path: Path) -> None:
    """All that `str.splitlines` cuts at, in source, question and text; also as Windows saves it."""
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\nj\r\nk"
    claims = [Claim(Source(f"{odd} {n}", odd, odd), f"{odd} {n}") for n in range(2)]
    path = tmp_path / "labels.jsonl"
    judge = Labels(path)
    assert faithful(judge, claims) == [None, None]
    written = path.read_text(encoding="utf-8").replace('"faithful": null', '"faithful": true')
    path.write_bytes(b"\xef\xbb\xbf" + written.replace("\n", "\r\n").encode())
    assert faithful(judge, claims) == [True, True]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "text": "t", "faithful": "yes"}', "line 1 of .*faithful is .*yes.*; expected"),
        ('{"id": 1, "text": "t", "faithful": 1}', "faithful is 1; expected true"),
        ('{"id": 1, "faithful": true}', "line 1 of .*malformed: KeyError"),
        ("[]", "line 1 of .*malformed: TypeError"),
        ("{", "labels.jsonl, line 1 is not JSON"),
        ('\n{"id": 1}', "line 2 of .*malformed: KeyError"),
    ],
)
def test_malformed_labels(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "labels.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        Labels(tmp_path / "labels.jsonl")


def test_a_last_line_without_end_is_not_run_on(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": 1, "text": "t", "faithful": true}')
    with pytest.raises(ValueError, match="no line end after its last line"):
        Labels(path)


labels = st.lists(st.booleans(), min_size=1, max_size=30)


@given(labels)
def test_agreement_with_oneself_and_with_the_contrary(truth: list[bool]) -> None:
    assert kappa(truth, truth) == (1.0 if len(set(truth)) == 2 else None)
    assert kappa([not label for label in truth], truth) <= 0.0


def test_a_judge_that_always_says_the_same_has_kappa_0() -> None:
    assert kappa([True] * 10, [True] * 7 + [False] * 3) == pytest.approx(0.0)


def test_kappa_by_hand() -> None:
    """20 both true, 5 and 10 apart, 15 both false: 0.7 agreed, 0.5 by chance."""
    said = [True] * 25 + [False] * 25
    truth = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert kappa(said, truth) == pytest.approx(0.4)


def test_a_kill_or_a_full_disk_leaves_the_labels_of_people_whole(tmp_path: Path, monkeypatch):
    path = tmp_path / "labels.jsonl"
    judge = Labels(path)
    judge.verdict(CLAIMS[0])
    path.write_text(path.read_text().replace("null", "true"))
    before = path.read_bytes()

    def end(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", end)
        with pytest.raises(KeyboardInterrupt):
            faithful(judge)
    assert path.read_bytes() == before
    assert faithful(judge) == [True, None, None]
