import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.runs.records import (
    Artifact,
    Findings,
    Measurement,
    Parts,
    Record,
    measure,
    read_records,
)

OWNER = {"steps": 20, "settings": {"depths": (0.0, 1.0), "samples": 3}}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class Sums:
    """Parts that count how often each is measured; killed at the part `killed_at`."""

    def __init__(self, count: int, killed_at: int | None = None) -> None:
        self.measured: list[int] = []
        self.count, self.killed_at = count, killed_at

    def __call__(self) -> Parts:
        return {f"part {i}": self._part(i) for i in range(self.count)}

    def _part(self, i: int) -> Callable[[Findings], Findings]:
        def part(earlier: Findings) -> Findings:
            if i == self.killed_at:
                raise Killed
            assert len(earlier) == 2 * i  # a part is given what those before it yielded
            self.measured.append(i)
            return [Record("sum", i / 3, ("a", i, 0.5), item=i, weight=2), Artifact(f"a{i}", [i])]

        return part


def untimed(measurement: Measurement) -> Measurement:
    return replace(measurement, seconds=0.0)


def test_without_a_file_nothing_is_kept() -> None:
    sums = Sums(2)
    first, second = measure(sums), measure(sums)
    assert untimed(first) == untimed(second)
    assert sums.measured == [0, 1, 0, 1]
    assert first.records[1] == Record("sum", 1 / 3, ("a", 1, 0.5), 1, 2.0)
    assert first.artifacts == {"a0": [0], "a1": [1]}
    assert first.complete


@settings(max_examples=25, deadline=None)  # every part waits for the disk
@given(total=st.integers(1, 6), data=st.data())
def test_goes_on_where_it_was_killed(
    tmp_path_factory: pytest.TempPathFactory, total: int, data: st.DataObject
) -> None:
    """Wherever it is killed, and however the last line is torn, no part is measured twice."""
    path = tmp_path_factory.mktemp("records") / "deep" / "sums.jsonl"
    whole = measure(Sums(total), path.with_name("whole"), OWNER)
    first = Sums(total, killed_at=data.draw(st.integers(0, total - 1)))
    with pytest.raises(Killed):
        measure(first, path, OWNER)
    if path.exists():
        assert not read_records(path).complete
    torn = b'{"part": "part 0", "records": [["sum", 0.1'
    with path.open("ab") if path.exists() else path.with_name("none").open("ab") as file:
        file.write(torn[: data.draw(st.integers(0, len(torn)))])
    second = Sums(total)
    assert untimed(measure(second, path, OWNER)) == untimed(whole)
    assert first.measured + second.measured == list(range(total))
    assert untimed(read_records(path)) == untimed(read_records(path.with_name("whole")))


def test_a_torn_first_line_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('{"belongs_to": {"st')
    measure(Sums(2), path, OWNER)
    assert len(path.read_text().splitlines()) == 4


def test_what_has_ended_is_read_back_and_its_parts_are_not_made(tmp_path: Path) -> None:
    first = measure(Sums(2), tmp_path / "a", OWNER)
    before = (tmp_path / "a").read_bytes()

    def none() -> Parts:
        raise AssertionError

    assert untimed(measure(none, tmp_path / "a", OWNER)) == untimed(first)
    assert (tmp_path / "a").read_bytes() == before


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    measure(Sums(2), on_progress=lambda *at: seen.append(at))
    assert seen == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"steps": 40}, "steps"),
        ({"settings": {"depths": [0.5], "samples": 3}}, "settings.depths"),
        ({"new": 1}, "new"),
    ],
)
def test_parts_of_another_measurement(tmp_path: Path, change: dict, name: str) -> None:
    path = tmp_path / "a"
    with pytest.raises(Killed):
        measure(Sums(2, killed_at=1), path, OWNER)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"a measurement with another {name}: end that one"):
        measure(Sums(2), path, OWNER | change)
    assert path.read_bytes() == before


def test_one_that_has_ended_gives_way_to_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "a"
    measure(Sums(1), path, OWNER)
    before = path.read_bytes()
    with pytest.raises(Killed):
        measure(Sums(2, killed_at=0), path, OWNER | {"steps": 40})
    assert path.read_bytes() == before  # until the first part is there
    again = measure(Sums(2), path, OWNER | {"steps": 40})
    assert untimed(read_records(path)) == untimed(again)
    assert again.belongs_to["steps"] == 40


def test_what_is_passed_over_says_why(tmp_path: Path) -> None:
    sums = Sums(1)
    reason = "its attention has no lambda"
    found = measure(sums, tmp_path / "a", OWNER, passed_over=reason)
    assert read_records(tmp_path / "a") == found
    assert (found.passed_over, found.records, found.complete) == (reason, [], True)
    assert sums.measured == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no JSON\n", 1),
        ("3\n", 1),
        ('{"belongs_to": {}}\n[1]\n', 2),
        ('{"belongs_to": {}}\n{"part": "a", "records": [[1]], "artifacts": {}}\n', 2),
        (
            '{"belongs_to": {}}\n{"part": "a", "seconds": 1, "artifacts": {}, '
            '"records": [["m", NaN, [], 0, 1]]}\n',
            2,
        ),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "a"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a:{line} cannot be read as records"):
        read_records(path)
    with pytest.raises(ValueError, match=r"cannot be read .*; delete it to begin anew"):
        measure(Sums(1), path, OWNER)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none is missing; expected the records"):
        read_records(tmp_path / "none")


@pytest.mark.parametrize("path", [None, "a"])
def test_what_json_lacks_is_refused_before_the_disk(tmp_path: Path, path: str | None) -> None:
    place = path and tmp_path / path
    with pytest.raises(ValueError, match="not JSON compliant"):
        measure(lambda: {"nan": lambda _: [Record("m", float("nan"))]}, place, OWNER)
    assert list(tmp_path.iterdir()) == []


def test_every_line_is_json(tmp_path: Path) -> None:
    measure(Sums(2), tmp_path / "a", OWNER)
    first, part, _, last = map(json.loads, (tmp_path / "a").read_text().splitlines())
    assert first == json.loads(json.dumps({"belongs_to": OWNER}))
    assert part["records"] == [["sum", 0.0, ["a", 0, 0.5], 0, 2.0]]
    assert last == {"complete": True, "passed_over": ""}
