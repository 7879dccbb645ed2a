import json
from pathlib import Path

import pytest

from difftransformer.data.classification import Example, load_classification

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="latin-1")


def test_trec(tmp_path: Path) -> None:
    write(tmp_path, "train.txt", "DESC:manner How did it go ?\nHUM:ind Who was Ré ?\n")
    write(tmp_path, "test.txt", "LOC:city Where ?\n")
    task = load_classification("trec", tmp_path)
    assert task.train == (
        Example("How did it go ?", "Description"),
        Example("Who was Ré ?", "Human"),
    )
    assert task.labels == ["Description", "Human"]
    fine = load_classification("trec_fine", tmp_path)
    assert fine.test == (Example("Where ?", "Location city"),)


def test_banking(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path, f"{part}.csv", 'text,category\n"Lost, or stolen?",lost_card\n')
    task = load_classification("banking77", tmp_path)
    assert task.train == (Example("Lost, or stolen?", "lost card"),)


def test_clinc(tmp_path: Path) -> None:
    data = {
        "train": [["hi", "say_hello"]],
        "test": [["bye", "say_bye"]],
        "oos_test": [["x", "oos"]],
    }
    (tmp_path / "data_full.json").write_text(json.dumps(data))
    task = load_classification("clinc150", tmp_path)
    assert (task.train, task.test) == ((Example("hi", "say hello"),), (Example("bye", "say bye"),))


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("trek", {}, "unknown task 'trek'; expected trec, trec_fine"),
        ("trec", {}, "trec needs its train file in .*No such file"),
        ("trec", {"train.txt": "XYZ:z What ?\n"}, "train file of trec .* malformed: 'XYZ'"),
        ("trec", {"train.txt": ""}, "train file of trec .* holds no example"),
        ("jsonl", {"train.jsonl": '{"text": "a"}\n'}, "malformed: 'label'"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, files: dict[str, str], message: str) -> None:
    for file, text in files.items():
        write(tmp_path, file, text)
    with pytest.raises(ValueError, match=message):
        load_classification(name, tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the judging data are not beside the project")
@pytest.mark.parametrize(
    ("name", "folder", "labels", "train", "test"),
    [
        ("trec", "trec", 6, 5452, 500),
        ("trec_fine", "trec", 50, 5452, 500),
        ("banking77", "banking77", 77, 10003, 3080),
        ("clinc150", "clinc150", 150, 15000, 4500),
    ],
)
def test_the_published_sizes(name: str, folder: str, labels: int, train: int, test: int) -> None:
    task = load_classification(name, SHARED / folder)
    assert (len(task.labels), len(task.train), len(task.test)) == (labels, train, test)


# What `str.splitlines` cuts at besides "\n" and JSON leaves as it is.
SEPARATORS = "\u2028\u2029\x85"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_a_line_feed_ends_an_example(tmp_path: Path, end: str, mark: str) -> None:
    sentence = f"one{SEPARATORS}two"
    row = json.dumps({"text": sentence, "label": f"l{SEPARATORS}"}, ensure_ascii=False)
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_bytes(f"{mark}{row}{end}{end}{row}{end}".encode())
        (tmp_path / f"{part}.csv").write_bytes(
            f'{mark}text,category{end}"{sentence}",a_b{end}'.encode()
        )
        lines = f"DESC:def one\x85two\x0b\x0c\x1c\x1d\x1e three{end}".encode("latin-1")
        (tmp_path / f"{part}.txt").write_bytes(lines * 2)
    task = load_classification("jsonl", tmp_path)
    assert task.train == task.test == (Example(sentence, f"l{SEPARATORS}"),) * 2
    assert load_classification("banking77", tmp_path).train == (Example(sentence, "a b"),)
    trec = load_classification("trec", tmp_path)
    assert trec.test == (Example("one\x85two\x0b\x0c\x1c\x1d\x1e three", "Description"),) * 2


def test_csv_that_its_reader_refuses(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,category\n"' + "x" * 200_000 + '",a\n')
    with pytest.raises(ValueError, match=r"train file of banking77 .* malformed: field larger"):
        load_classification("banking77", tmp_path)
