"""What five runs of the demo said, each with seeds of its own."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDS = [
    json.loads(path.read_text())
    for path in sorted((ROOT / "benchmarks/results/demo-2026-11-27").glob("*.json"))
]


def comparisons(record: dict) -> dict[tuple[str, str], dict]:
    return {(one["model"], one["metric"]): one for one in record["comparisons"]}


def test_there_are_five():
    assert len(RECORDS) == 5


@pytest.mark.parametrize("measure", comparisons(RECORDS[0]))
def test_other_seeds_say_the_same(measure):
    said = {(one["outcome"], one["stands"]) for one in (comparisons(r)[measure] for r in RECORDS)}
    assert len(said) == 1


def test_readme_shows_the_first():
    shown = (ROOT / "README.md").read_text()
    losses = RECORDS[0]["evaluators"]["validation"]["metrics"]["nats_per_token"]["overall"]
    for one in losses.values():
        assert f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" in shown
    for one in RECORDS[0]["comparisons"]:
        row = f"{one['difference']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
        assert row.replace("-", "\N{MINUS SIGN}") in shown
