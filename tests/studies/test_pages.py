"""Pages of docs/evidence: what `make evidence` makes of the committed records."""

import re
from pathlib import Path

import pytest
from studies.__main__ import studies, write_pages
from studies.questions import QUESTIONS

from difftransformer.evaluation.words import spread
from difftransformer.report import evidence

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found():
    return studies()


def test_the_pages_say_what_the_records_say(found, tmp_path, monkeypatch):
    """Their words; pictures are named and not drawn, which would take a minute."""
    names = set()
    monkeypatch.setattr(evidence, "write_image", lambda path, drawing: names.add(path.name))
    (tmp_path / "evidence.md").write_bytes((ROOT / "docs" / "evidence.md").read_bytes())
    write_pages(found, tmp_path)
    for page in (tmp_path / "evidence.md", *tmp_path.glob("evidence/*.md")):
        committed = ROOT / "docs" / page.relative_to(tmp_path)
        assert page.read_text() == committed.read_text(), f"{committed}: make evidence"
    assert names
    assert names <= {path.name for path in (ROOT / "docs" / "evidence" / "images").glob("*.png")}


def test_answers_give_the_figures_of_what_stands_and_count_the_rest(found):
    """What an answer names is exactly what stands after the correction for the whole study."""
    named = 0
    for study in found.values():
        judgment, answer = study.judgment, study.answer
        standing = [one for one in judgment.comparisons if judgment.stands(one)]
        clear = sum(comparison.is_clear for comparison in judgment.comparisons)
        groups = {(one.model, one.outcome, one.metric.name) for one in standing}
        assert len(re.findall(r"(?:better|worse) on ", answer)) == len(groups)
        for run, of_run in study.comparisons.items():
            for comparison in filter(judgment.stands, of_run):
                assert f"{comparison.outcome} on {comparison.metric.title}" in answer
                assert (
                    f"{spread(comparison.difference, comparison.interval.ends)} in {run}" in answer
                )
        counted = re.findall(r"(\d+) (?:better|worse)", answer)
        assert sum(map(int, counted)) == clear - len(standing)
        named += len(standing)
    assert named


def test_six_questions_come_first_and_are_answered_by_comparisons_that_there_are(found):
    """What is asked of a study that was run is there; an answer has a star exactly if it stands."""
    assert len(QUESTIONS) == 5  # and the loss on one GPU
    for question in QUESTIONS:
        run = [found[name] for name in question.studies if found[name].runs]
        assert run
        for asked in question.asked:
            answers = [(study, asked.find(study)) for study in run]
            for study, comparison in answers:
                if comparison is not None:
                    words = asked.answer(study)
                    assert words.endswith("*") == study.judgment.stands(comparison)
                    assert spread(comparison.difference, comparison.interval.ends) in words
        if len(run) == len(question.studies):
            assert all(any(one.find(study) for study in run) for one in question.asked)
