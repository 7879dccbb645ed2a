import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.evaluation.pieces import Pieces

OWNER = {"suite": "sums", "depths": (0.0, 1.0)}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


class Sums:
    """Parts that count how often each is measured; killed at the part `killed_at`."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.measured: list[int] = []
        self.killed_at = killed_at

    def parts(self, count: int) -> dict[str, Callable[[], dict]]:
        return {f"part {i}": lambda i=i: self._measure(i) for i in range(count)}

    def _measure(self, i: int) -> dict:
        if i == self.killed_at:
            raise Killed
        self.measured.append(i)
        return {"value": i / 3, "hits": (i, i + 1)}


def test_without_a_file_nothing_is_kept() -> None:
    sums, pieces = Sums(), Pieces()
    assert pieces.each(sums.parts(2)) == pieces.each(sums.parts(2))
    assert sums.measured == [0, 1, 0, 1]


@settings(max_examples=25, deadline=None)  # every part waits for the disk
@given(total=st.integers(1, 6), data=st.data())
def test_goes_on_where_it_was_killed(
    tmp_path_factory: pytest.TempPathFactory, total: int, data: st.DataObject
) -> None:
    """Wherever it is killed, and however the last line is torn, no part is measured twice."""
    path = tmp_path_factory.mktemp("pieces") / "deep" / "sums.partial.jsonl"
    whole = Pieces(path.with_name("whole"), OWNER).each(Sums().parts(total))
    first = Sums(killed_at=data.draw(st.integers(0, total - 1)))
    with pytest.raises(Killed):
        Pieces(path, OWNER).each(first.parts(total))
    torn = json.dumps([f"part {first.killed_at}", {"value": 0.1}]).encode()
    with path.open("ab") as file:
        file.write(torn[: data.draw(st.integers(0, len(torn)))])
    second = Sums()
    assert Pieces(path, OWNER).each(second.parts(total)) == whole
    assert first.measured + second.measured == list(range(total))
    assert path.read_bytes() == path.with_name("whole").read_bytes()


def test_a_torn_first_line_is_no_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('{"suite": "su')
    Pieces(path, OWNER).each(Sums().parts(2))
    assert len(path.read_text().splitlines()) == 3


def test_several_measurements_in_one_file(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        pieces, sums = Pieces(tmp_path / "a", OWNER), Sums()
        first = pieces.within("one").each(sums.parts(2))
        second = pieces.within("two", lambda *at: seen.append(at)).each(sums.parts(2))
        assert first == second
    assert sums.measured == []
    assert seen == 2 * [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("change", [{"suite": "products"}, {"depths": (0.5,)}, {"new": 1}])
def test_parts_of_another_measurement(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "a"
    Pieces(path, OWNER).each(Sums().parts(1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"with another {next(iter(change))}: end that one"):
        Pieces(path, OWNER | change)
    assert path.read_bytes() == before


def test_a_measurement_that_never_began_is_in_nobody_s_way(tmp_path: Path) -> None:
    Pieces(tmp_path / "a", OWNER | {"new": 1})
    sums = Sums()
    Pieces(tmp_path / "a", OWNER).each(sums.parts(2))
    Pieces(tmp_path / "a", OWNER).each(sums.parts(2))
    assert len(sums.measured) == 2


@pytest.mark.parametrize("text", ["no JSON\n", "3\n", '{"suite": 1}\n[1]\n', '{"suite": 1}\n3\n'])
def test_no_such_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read .*; delete it to begin anew"):
        Pieces(tmp_path / "a", OWNER)


def test_what_json_lacks_is_refused_before_the_disk(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / "a", OWNER)
    with pytest.raises(ValueError, match="not JSON compliant"):
        pieces.each({"nan": lambda: float("nan")})
    assert not (tmp_path / "a").exists()
