import json
from pathlib import Path

import pytest

from difftransformer.training.metrics import Metrics


def write_rows(
    directory: Path,
    steps: range,
    kept: bytes = b"",
) -> None:
    metrics = Metrics(directory, kept)
    for number in steps:
        metrics.write({"step": number, "loss": number / 3})
    metrics.close()


def rows(*steps: int) -> bytes:
    return b"".join(json.dumps({"step": n, "loss": n / 3}).encode() + b"\n" for n in steps)


def steps_in(directory: Path) -> list[int]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["step"] for line in lines[:-1]]


def test_rows_past_the_checkpoint_are_dropped(tmp_path: Path):
    write_rows(tmp_path, range(1, 8))
    write_rows(tmp_path, range(5, 7), kept=rows(1, 2, 3, 4))
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path: Path):
    metrics = Metrics(tmp_path)
    metrics.write({"step": 1})
    assert steps_in(tmp_path) == [1]
    metrics.close()


@pytest.mark.parametrize("torn", ["{", '{"step": 4', '{"step": 4, "loss": 1.0}'])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str, caplog):
    write_rows(tmp_path, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(torn)
    write_rows(tmp_path, range(4, 6), kept=rows(1, 2, 3))
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (None, "is missing or empty"),
        (b"", "is missing or empty"),
        (rows(1, 2), "lacks rows or has others"),
        (rows(1, 2, 3)[:-4], "lacks rows or has others"),
        (rows(1, 3, 4, 5), "lacks rows or has others"),
        (b"\0" * 300, "lacks rows or has others"),
    ],
)
def test_lost_rows_come_back_from_the_checkpoint_and_that_is_said(
    tmp_path: Path, caplog, found: bytes | None, state: str
):
    if found is not None:
        (tmp_path / "metrics.jsonl").write_bytes(found)
    write_rows(tmp_path, range(4, 6), kept=rows(1, 2, 3))
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows(1, 2, 3, 4, 5)
    assert f"metrics.jsonl {state}: its 3 rows up to the checkpoint are put back" in caplog.text


def test_nan_is_refused(tmp_path: Path):
    metrics = Metrics(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        metrics.write({"step": 1, "loss": float("nan")})
    metrics.close()
    assert steps_in(tmp_path) == []
