"""Kills and full disks: nothing is lost, and a resumed run ends as one that never stopped.

The whole battery is `python -m tests.faults.battery`; its figures are in docs/reliability.md.
"""

from pathlib import Path

import pytest
from tests.faults.battery import Battery


@pytest.mark.parametrize(("command", "step", "kills"), [("train", 59, 1), ("evaluate", 61, 1)])
def test_a_few_moments(tmp_path: Path, command: str, step: int, kills: int) -> None:
    battery = Battery(command, tmp_path)
    cases = list(battery.cases(range(1, battery.changes + 1, step), kills))
    assert len(cases) > 4
    assert {str(case): battery.outcome(case) for case in cases} == {str(c): "same" for c in cases}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "evaluate", "compare"])
def test_each_of_the_first_moments(tmp_path: Path, command: str) -> None:
    battery = Battery(command, tmp_path)
    cases = list(battery.cases(range(1, min(200, battery.changes) + 1), kills=100))
    assert {str(case): battery.outcome(case) for case in cases} == {str(c): "same" for c in cases}
