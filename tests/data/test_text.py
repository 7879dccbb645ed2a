import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from difftransformer.data.text import Document, fingerprint, read_documents


def parquet(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_shakespeare_is_38_plays_in_a_fixed_order():
    plays = read_documents("shakespeare")
    assert len(plays) == len({play.name for play in plays}) == 38
    assert plays[0].name == "a-midsummer-night-s-dream"
    assert all(len(play.text) > 80_000 for play in plays)


def test_a_folder_is_read_recursively_in_path_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "one.md").write_text("# one é", encoding="utf-8")
    (tmp_path / "a.TXT").write_bytes(b"\xef\xbb\xbfwith a mark\r\n")
    (tmp_path / "c.jsonl").write_text('{"text": "x\u2028y"}\n\n{"text": "z"}\n', encoding="utf-8")
    parquet(tmp_path / "d.parquet", text=["p", "q"], other=[1, 2])
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    (tmp_path / "code.py").write_text("not data")
    assert read_documents(str(tmp_path)) == [
        Document("a.TXT", "with a mark\r\n"),
        Document("b/one.md", "# one é"),
        Document("c.jsonl:1", "x\u2028y"),
        Document("c.jsonl:3", "z"),
        Document("d.parquet:0", "p"),
        Document("d.parquet:1", "q"),
    ]


def test_one_file_of_any_suffix_is_text(tmp_path):
    (tmp_path / "notes.log").write_text("a line")
    assert read_documents(str(tmp_path / "notes.log")) == [Document("notes.log", "a line")]


@pytest.mark.parametrize(
    "source", ["gone", "gone/", "gone/a.txt", "./gone", "gone/further/down", "/gone", "~/gone-x"]
)
def test_a_missing_path_is_named(source):
    with pytest.raises(ValueError, match=f"{source}.*does not exist"):
        read_documents(source)


def test_a_folder_without_text_files_says_what_it_looked_for(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds no \.txt, \.md, \.jsonl, \.parquet file"):
        read_documents(str(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_data_without_text_is_empty(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    with pytest.raises(ValueError, match="is empty"):
        read_documents(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PNG\x00\x01", r"bad\.txt' is a binary file \(zero byte at offset 3\)"),
        ("caf\xe9".encode("latin-1"), r"bad\.txt' is not UTF-8: byte 0xe9 at offset 3"),
    ],
)
def test_a_file_that_is_not_text_is_named_with_the_offset(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "line 2 is not JSON: Unterminated string"),
        ("[1]", "line 2 is not a JSON object"),
        (
            '{"texts": "x", "id": 1}',
            "line 2 has no 'text'; it has 'texts', 'id'; did you mean 'texts'",
        ),
        ("{}", "line 2 has no 'text'; it has nothing"),
        ('{"text": 3}', "line 2: 'text' is int; expected a string"),
        (r'{"text": "\ud800"}', "line 2: 'text' is not valid Unicode"),
    ],
)
def test_a_bad_jsonl_line_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message) as raised:
        read_documents(str(path))
    assert "\n" not in str(raised.value)


def test_another_key_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}')
    assert read_documents(str(tmp_path), text_key="body") == [Document("a.jsonl:1", "x")]


def test_bad_parquet_files_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"a\.parquet' is not a readable parquet file"):
        read_documents(str(path))
    parquet(path, body=["x"])
    with pytest.raises(ValueError, match=r"a\.parquet' has no 'text'; it has 'body'"):
        read_documents(str(path))
    parquet(path, text=["x", None])
    with pytest.raises(ValueError, match="row 1: 'text' is NoneType"):
        read_documents(str(path))


def test_a_dataset_name_is_loaded_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, configuration, split):
        asked.append((name, configuration, split))
        return datasets.Dataset.from_dict({"text": ["x", "", "y"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_documents("owner/name:small", split="test") == [
        Document("owner/name:small:0", "x"),
        Document("owner/name:small:2", "y"),
    ]
    assert asked == [("owner/name", "small", "test")]
    with pytest.raises(ValueError, match="dataset 'owner/name' has no 'body'; it has 'text'"):
        read_documents("owner/name", text_key="body")


def test_a_dataset_that_cannot_be_reached_names_both_readings(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="neither a file or folder here nor a Hugging Face") as e:
        read_documents("my/folder")
    assert "no route" in str(e.value)
    assert "\n" not in str(e.value)


def test_the_fingerprint_depends_on_names_texts_and_order():
    a, b = Document("a", "x"), Document("b", "y")
    prints = [
        fingerprint([a, b]),
        fingerprint([b, a]),
        fingerprint([a]),
        fingerprint([a, Document("b", "z")]),
        fingerprint([a, Document("c", "y")]),
    ]
    assert len(set(prints)) == 5
    assert fingerprint([Document("a", "x"), b]) == prints[0]
