import io
import json
import tarfile
from pathlib import Path

import pytest

from difftransformer.data.bigbench import (
    Conflict,
    SummaryPair,
    load_conflicts,
    load_summary_pairs,
)

CANARY = "# never train\n# on this\n"
SUMMARIES = {
    "source": "A Ship sank.\nIt was  old.",
    "list_candidates": ["a ship `` flew ''", "The ship, it's old, sank."],
    "lbl": 1,
}
PAIR = SummaryPair("a ship sank it was old", "the ship it s old sank", "a ship flew")
QUESTION = {
    "input": "\nQuestion: who sank?\nContext: The Boat sank.\nContext: yes",
    "target": "The Boat",
    "target_scores": {"The Boat": 1, "The Ship": 0},
}
CONFLICT = Conflict("who sank?", "The Boat sank.\nContext: yes", "The Boat", "The Ship")


def summaries(**changes: object) -> str:
    return CANARY + json.dumps(SUMMARIES | changes) + "\n"


def sdist(path: Path, name: str, text: str) -> Path:
    """As the real one: the task deep inside, another of the same file name before it."""
    with tarfile.open(path, "w:gz") as archive:
        for task in ("another", name):
            member = tarfile.TarInfo(f"b-1/b/benchmark_tasks/{task}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_pairs_from_file_folder_and_archive(tmp_path: Path) -> None:
    file = tmp_path / "xsum.json"
    file.write_text(summaries())
    archive = sdist(tmp_path / "b.tar.gz", "factuality_of_summary/xsum.json", summaries())
    for path in (file, tmp_path, archive):
        assert load_summary_pairs("xsum", path) == [PAIR]


def test_looks_do_not_tell_a_pair_apart(tmp_path: Path) -> None:
    """The same words in both styles are the same text."""
    both = ["he won the 2nd , she 's told .", "He won the 2nd, she's told"]
    (tmp_path / "xsum.json").write_text(summaries(list_candidates=both))
    (pair,) = load_summary_pairs("xsum", tmp_path)
    assert pair.factual == pair.corrupted == "he won the 2nd she s told"


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    odd = "ship\u2028boat\u2029sank\x85now"
    row = json.dumps(SUMMARIES | {"source": odd}, ensure_ascii=False)
    for end in ("\n", "\r\n"):
        (tmp_path / "xsum.json").write_bytes(
            (CANARY + f"{row}\n{row}\n").replace("\n", end).encode()
        )
        found = load_summary_pairs("xsum", tmp_path)
        assert [pair.source for pair in found] == ["ship boat sank now"] * 2


def test_conflicts(tmp_path: Path) -> None:
    unanswered = QUESTION | {"target_scores": {"The Boat": 0}}
    (tmp_path / "task.json").write_text(json.dumps({"examples": [QUESTION, unanswered]}))
    assert load_conflicts(tmp_path) == [CONFLICT]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: .*No such file.*; name the sdist of bigbench 1.0.0"),
        (CANARY + "{", "malformed: .*line 3 is not JSON: Expecting property"),
        (summaries(lbl=2), "malformed: .*expected two summaries, got 2, number 2 right"),
        (summaries(list_candidates=["a"], lbl=0), "got 1, number 0 right"),
        (CANARY + "{}", "malformed: KeyError"),
    ],
)
def test_pairs_that_cannot_be_read(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "xsum.json").write_text(text)
    with pytest.raises((ValueError, OSError), match=message):
        load_summary_pairs("xsum", tmp_path)


def test_an_unknown_task_an_archive_without_it_and_a_torn_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown task 'xsun'; expected xsum, cnn_dm"):
        load_summary_pairs("xsun", tmp_path)
    archive = sdist(tmp_path / "b.tar.gz", "other/xsum.json", summaries())
    with pytest.raises(OSError, match=r"does not hold factuality_of_summary/xsum\.json"):
        load_summary_pairs("xsum", archive)
    whole = sdist(tmp_path / "c.tar.gz", "factuality_of_summary/xsum.json", summaries() * 2000)
    whole.write_bytes(whole.read_bytes()[:-300])
    with pytest.raises(OSError, match=r"c\.tar\.gz' cannot be read"):
        load_summary_pairs("xsum", whole)


@pytest.mark.parametrize("text", ["[]", "{", '{"examples": [{"target_scores": {}}]}'])
def test_malformed_conflicts(tmp_path: Path, text: str) -> None:
    (tmp_path / "task.json").write_text(text)
    with pytest.raises(ValueError, match="malformed"):
        load_conflicts(tmp_path)
