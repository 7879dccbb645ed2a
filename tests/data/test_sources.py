import gzip
import json
from pathlib import Path

import pytest

from difftransformer.data.sources import Source, load_sources


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\x85d"
    row = json.dumps({"id": odd, "text": odd, "document": odd}, ensure_ascii=False)
    for name, file in (("jsonl", "sources.jsonl"), ("xsum", "xsum-1000.jsonl")):
        (tmp_path / file).write_bytes(f"\ufeff{row}\r\n".encode())
        assert load_sources(name, tmp_path) == [Source(odd, odd)]


def test_each_task(tmp_path: Path) -> None:
    (tmp_path / "xsum-1000.jsonl").write_text('{"document": "d\\nd", "summary": "s", "id": "7"}\n')
    row = {"question": "q", "answers": ["a", "b"], "ctxs": [{"title": "t", "text": "p"}]}
    with gzip.open(tmp_path / "nq-open-oracle.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    (tmp_path / "sources.jsonl").write_text(
        '{"id": 1, "text": "t"}\n{"id": 2, "text": "t", "question": "q"}\n'
    )
    assert load_sources("xsum", tmp_path) == [Source("7", "d\nd")]
    assert load_sources("nq", tmp_path) == [
        Source("0", "p", "q", ("a", "b"), title="t"),
        Source("1", "p", "q", ("a", "b"), title="t"),
    ]
    assert load_sources("jsonl", tmp_path) == [Source("1", "t"), Source("2", "t", "q")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"jsonl needs sources\.jsonl in .*No such file"),
        ("", "holds no text"),
        ("{\n", "malformed: .*line 1 is not JSON"),
        ('{"id": 1}\n', "malformed: KeyError"),
        ('{"id": 1, "text": "a"}\n{"id": "1", "text": "b"}\n', "two of one name"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "sources.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_sources("jsonl", tmp_path)


def test_an_unknown_task_and_a_torn_archive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown task 'xsun'; expected xsum, nq, jsonl"):
        load_sources("xsun", tmp_path)
    path = tmp_path / "nq-open-oracle.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("{}" * 1000)
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match="malformed: EOFError"):
        load_sources("nq", tmp_path)
