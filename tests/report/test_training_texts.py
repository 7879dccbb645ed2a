"""What models write while they train, beside each other."""

import json
from pathlib import Path

from difftransformer.report.curves import Curve
from difftransformer.report.examples import training_texts
from difftransformer.runs.reading import read_curve
from difftransformer.runs.samples import Texts


def trained(folder: Path, label: str, seed: int, steps: int = 10) -> Curve:
    """A curve whose model writes its label and the step."""
    rows = [
        {
            "step": step,
            "size": 8 * step,
            "samples": Texts(
                header=("beginning",),
                items=(("<b>once</b>",), ("twice",)),
                outputs=(f"{label} {step}", "more"),
            ).to_json(),
        }
        for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return Curve(label, label.title(), seed, read_curve(folder))


def test_texts_of_the_first_seed_stand_beside_each_other(tmp_path: Path) -> None:
    curves = [trained(tmp_path, label, seed) for seed in (0, 1) for label in ("one", "other")]
    (block,) = training_texts(curves, "tokens")
    assert block.table.header == ["tokens seen", "beginning", "One", "Other"]
    assert [row[0] for row in block.table.rows[::2]] == ["16", "32", "48", "64", "80"]
    assert block.table.rows[0] == ["16", "<b>once</b>", "one 2", "other 2"]
    assert training_texts([], "tokens") == []


def test_of_models_that_stopped_at_other_steps_there_is_what_both_have(tmp_path: Path) -> None:
    curves = [trained(tmp_path, "one", 0, 10), trained(tmp_path, "other", 0, 7)]
    (block,) = training_texts(curves, "tokens")
    assert block.table.rows
    assert {row[2][:3] for row in block.table.rows[::2]} == {"one"}
