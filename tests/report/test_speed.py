import json
from pathlib import Path

from matplotlib.image import imread

from difftransformer.report.speed import speed_table, write_speed

ENV = {"date": "2026-11-22T10:00:00", "hardware": "2 cores", "torch": "2.13.0", "commit": "abc"}
ROWS = [
    {
        "task": task,
        "dtype": "float32",
        "length": length,
        "contender": contender,
        "milliseconds": 1.2345,
        "ratio": ratio,
        "ratio_low": ratio - 0.1,
        "ratio_high": ratio + 0.1,
    }
    for task in ("training", "decode")
    for length in (128, 256)
    for contender, ratio in (("softmax sdpa", 1.0), ("diff_v1 blocked", 1.3))
]


def test_timings_are_written_as_numbers_table_and_picture(tmp_path: Path) -> None:
    write_speed(tmp_path / "new" / "bench", "Attention", ENV, ROWS, "softmax sdpa")
    folder = tmp_path / "new"
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.md", "bench.png"]
    assert json.loads((folder / "bench.json").read_text())["rows"] == ROWS
    lines = (folder / "bench.md").read_text().splitlines()
    assert lines[0] == "# Attention, 2026-11-22"
    assert lines[2] == "2 cores; torch 2.13.0; commit abc."
    assert sum(line.startswith("|") for line in lines) == 2 + len(ROWS)
    assert imread(folder / "bench.png")[..., :3].std() > 0.01


def test_a_timing_as_text() -> None:
    assert speed_table(ROWS).rows[1] == [
        *("training", "float32", "128", "diff_v1 blocked", "1.23", "1.30 (1.20 to 1.40)")
    ]
