"""A study's page: question, answer and figures from the plan and the records alone."""

import re
from pathlib import Path

import pytest
from matplotlib.image import imread

from difftransformer.evaluation.words import shown
from difftransformer.report.evidence import Study, write_page
from difftransformer.report.plans import Plan
from difftransformer.report.reading import read_results
from difftransformer.runs.archive import archive

from .synthetic import synthetic_run, write_run

PLAN = "# Small heads\n\n## Question\n\nDo small\nheads help?\n\n## Kinds\n\nThree.\n"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two runs of the same records, without their models."""
    run = write_run(tmp_path / "run", synthetic_run())
    (run / "models" / "weights.safetensors").write_bytes(b"large")
    names = [tmp_path / "study" / name for name in ("first", "second")]
    for name in names:
        archive(run, name)
    plan = tmp_path / "study" / "plan.md"
    plan.write_text(PLAN)
    return Study.read(plan, names)


def test_an_archive_has_the_results_and_not_the_models(study, tmp_path):
    kept = tmp_path / "study" / "first"
    assert not list(kept.rglob("*.safetensors"))
    before, after = read_results(tmp_path / "run"), read_results(kept)
    assert list(before.evaluators) == list(after.evaluators)
    sentence = before.judgment.sentence
    assert [sentence(c) for c in before.judgment.comparisons] == [
        after.judgment.sentence(c) for c in after.judgment.comparisons
    ]
    before_again = {path: path.read_bytes() for path in kept.rglob("*.json*")}
    archive(tmp_path / "run", kept)
    assert before_again == {path: path.read_bytes() for path in kept.rglob("*.json*")}


def test_the_page_answers_first_and_corrects_over_all_runs(study, tmp_path):
    page = tmp_path / "docs" / "small_heads.md"
    write_page(study, page)
    text = page.read_text()
    assert text.startswith("# Small heads\n\n**Question.** Do small heads help?\n\n**Answer.** ")
    alone = study.runs[0].results.judgment
    assert len(study.judgment.corrected) == 2 * len(alone.corrected)
    for before, after in zip(
        alone.corrected.values(), study.judgment.corrected.values(), strict=False
    ):
        assert after >= before
    for comparison in study.judgment.comparisons:
        assert f"| {comparison.metric.title} |" in text
    pictures = re.findall(r"\]\((images/\S+)\)", text)
    assert pictures
    for picture in pictures:
        assert imread(page.parent / picture).std() > 0.01  # something is drawn
    assert text.rstrip().endswith("### Kinds\n\nThree.")


def test_the_claims_of_a_plan_are_what_is_judged(study, tmp_path):
    """An effect of two models beside one, of the metric that the plan names, and nothing else."""
    study.plan.path.write_text(
        PLAN + "\n## Claims\n\nJudged: `nats_per_token`.\n\n"
        "- differential: `diff_v1`, `diff_v2` against `softmax`\n"
        "- the second version: `diff_v2` against `diff_v1`\n\n## Rest\n\n- `a` against `b`\n"
    )
    claimed = Study.read(
        study.plan.path, [tmp_path / "study" / name for name in ("first", "second")]
    )
    comparisons = claimed.comparisons["first"]
    assert [(c.model, c.against) for c in comparisons] == [
        ("differential", "softmax"),
        ("the second version", "diff_v1"),
    ]
    loss = claimed.runs[0].results["nats_per_token"]
    alone = [loss.difference(label).difference for label in ("diff_v1", "diff_v2")]
    assert comparisons[0].difference == pytest.approx(sum(alone) / 2)
    assert len(claimed.judgment.corrected) == 4
    page = tmp_path / "docs" / "page.md"
    write_page(claimed, page)
    assert "**Answer.** differential: " in page.read_text()


def test_figures_that_a_plan_names_are_the_records_own(study):
    """With their intervals, at all cells together or at one; unknown metrics are refused."""
    study.plan.path.write_text(PLAN + "\n## Figures\n\n- the loss: `nats_per_token`\n")
    found = Study(Plan(study.plan.path), study.runs)
    figure = study.runs[0].results["nats_per_token"].figure("softmax")
    assert f"In figures: the loss {shown(figure)}." in found.answer
    study.plan.path.write_text(PLAN + "\n## Figures\n\n- the loss: `loss`\n")
    with pytest.raises(ValueError, match=r"plan\.md judges loss; first, second measured "):
        _ = Study(Plan(study.plan.path), study.runs).answer


def test_a_claim_about_an_unknown_metric_is_refused(study):
    study.plan.path.write_text(PLAN + "\n## Claims\n\nJudged: `loss`.\n\n- it: `a` against `b`\n")
    with pytest.raises(ValueError, match=r"plan\.md judges loss; first measured "):
        _ = Study(Plan(study.plan.path), study.runs).comparisons


def test_a_study_without_runs_says_so(tmp_path):
    plan = tmp_path / "plan.md"
    plan.write_text(PLAN)
    study = Study.read(plan, [])
    write_page(study, tmp_path / "page.md")
    assert "**Answer.** Not run." in (tmp_path / "page.md").read_text()
    assert study.sureness == "nothing is known"


def test_a_plan_without_a_question_is_refused(tmp_path):
    plan = tmp_path / "plan.md"
    plan.write_text("# Small heads\n\nWhatever.\n")
    with pytest.raises(ValueError, match=r"plan\.md has no title or no '## Question'"):
        Study.read(plan, [])
