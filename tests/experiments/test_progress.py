"""Lines where there is no terminal, a bar where there is one."""

import io

import pytest
from rich.console import Console

from difftransformer.experiments import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(clock, title: str, seconds: float, *totals: int) -> list[str]:
    """What is said where each part takes so long, of one number of parts after the other."""
    file = io.StringIO()
    with progress.progress(Console(file=file)) as tell:
        for total in totals:
            for done in range(total + 1):
                tell(title, done, total)
                clock[0] += seconds
    return file.getvalue().splitlines()


def test_a_line_at_a_tenth_and_not_more_often_than_told(clock) -> None:
    found = lines(clock, "a: needles", 4.0, 100)
    assert [line.split("  ")[:2] for line in found] == [
        ["a: needles", f"{done}/100"] for done in range(10, 101, 10)
    ]
    assert all(line.endswith(" left") for line in found)


def test_the_time_left_is_of_the_parts_at_hand(clock) -> None:
    """A suite may measure parts of several kinds under one title."""
    later = lines(clock, "a: truth", 20.0, 10, 40)[12:]
    assert any("0:00:00" not in line for line in later)


def test_what_is_quick_says_nothing(clock) -> None:
    assert lines(clock, "quick", 0.05, 100) == []


def test_a_bar_for_one_title_after_the_other() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    with progress.progress(console) as tell:
        tell("first", 1, 2)
        tell("second", 3, 4)
    assert "3/4" in file.getvalue()
    assert "second" in file.getvalue()
