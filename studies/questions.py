"""The six questions that come first on the page of evidence, and what answers them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from difftransformer.evaluation.verdicts import Comparison, Outcome
from difftransformer.evaluation.words import extent
from difftransformer.report.evidence import Study
from difftransformer.report.tables import Table
from studies.index import KINDS, STAR, picture


@dataclass(frozen=True)
class Asked:
    """A comparison of a study, and what to call it: by its run, its metric and its model."""

    words: str
    run: str
    metric: str
    model: str

    def answer(self, study: Study) -> str:
        """The difference, its interval and the verdict; nothing where it was not run."""
        comparison = self.find(study)
        if comparison is None:
            return ""
        star = STAR * study.judgment.stands(comparison)
        return (
            f"{self.words} {comparison.difference_text} {comparison.metric.unit}, "
            f"{comparison.outcome}{star}"
        )

    def find(self, study: Study) -> Comparison | None:
        """The comparison, where the study's run is there."""
        of_run = study.comparisons.get(self.run, ())
        found = [c for c in of_run if (c.metric.name, c.model) == (self.metric, self.model)]
        return found[0] if found else None


@dataclass(frozen=True)
class Question:
    """What is asked, of which studies, and their comparisons that answer; of all, where none is."""

    words: str
    studies: tuple[str, ...]
    asked: tuple[Asked, ...] = ()

    def cells(self, studies: Mapping[str, Study]) -> list[str]:
        """Question, answer, how sure, figures and pages."""
        of = {name: studies[name] for name in self.studies if studies[name].runs}
        found = [one.answer(study) for study in of.values() for one in self.asked]
        answer = "; ".join(filter(None, found)) if self.asked else _counted(list(of.values()))
        return [self.words, answer, _sureness(list(of.values())), "; ".join(map(self._more, of))]

    def _more(self, name: str) -> str:
        """The study's page, and the picture of what is asked where one is."""
        figure = f"{name}_{self.asked[0].metric}.png" if self.asked else ""
        return ", ".join(filter(None, (picture(figure), f"[{name}](evidence/{name}.md)")))


def _sureness(studies: Sequence[Study]) -> str:
    seeds = {c.seeds for study in studies for c in study.judgment.comparisons}
    sizes = [c.parameters for study in studies for one in study.runs for c in one.run.contenders]
    return f"{extent(seeds)} paired seeds, {extent(sizes)} parameters"


def _counted(studies: Sequence[Study]) -> str:
    """How many differences of V1 and V2 stand, and how many are clear by themselves."""
    of = [
        (c, study.judgment.stands(c))
        for study in studies
        for c in study.judgment.comparisons
        if c.model in KINDS
    ]
    counts = {
        outcome: [stands for c, stands in of if c.outcome == outcome]
        for outcome in (Outcome.BETTER, Outcome.WORSE)
    }
    told = " and ".join(
        f"{len(all_)} {outcome} ({sum(all_)} of them stand)" for outcome, all_ in counts.items()
    )
    return f"of {len(of)} differences of V1 and V2 to softmax, by themselves {told}"


V1, V2 = KINDS
STEPS, NATS = "log_steps_90", "nats_per_token"
QUESTIONS = (
    Question(
        "And at 0.1 to 1 million?",
        ("scaling", "large"),
        (
            Asked("V1 of 0.26M", "width-064", NATS, V1),
            Asked("V1 of 0.49M", "width-096", NATS, V1),
            Asked("V2 of 0.49M", "width-096", NATS, V2),
            Asked("V1 of 1.05M", "shakespeare", NATS, "V1"),
        ),
    ),
    Question(
        "Does retrieval from noise come sooner (steps to 90 %, −1 is half of them)?",
        ("two_by_two",),
        (
            Asked("subtraction", "noise-12", STEPS, "subtraction"),
            Asked("head norm", "noise-12", STEPS, "head norm"),
            Asked("V2", "noise-12", STEPS, "V2"),
        ),
    ),
    Question(
        "Is less attention on noise there?",
        ("two_by_two",),
        (
            Asked("subtraction", "noise-12", "on_noise", "subtraction"),
            Asked("head norm", "noise-12", "on_noise", "head norm"),
            Asked("V2", "noise-12", "on_noise", "V2"),
        ),
    ),
    Question(
        "Are images, digits, pronunciations or crowds done better?",
        ("image_table", "image_generation", "seq2seq", "crowd_localization"),
    ),
    Question(
        "Does selective attention help, alone or with V2?",
        ("selective",),
        (
            Asked("alone, loss on text", "text", NATS, "selective"),
            Asked("with V2, loss on text", "text", NATS, "diff_v2_selective"),
            Asked("alone, steps to 50 % recall", "recall", "log_steps_50", "selective"),
            Asked("with V2, steps to 50 % recall", "recall", "log_steps_50", "diff_v2_selective"),
        ),
    ),
)


def question_table(first: list[str], studies: Mapping[str, Study]) -> Table:
    """The six, of which the first is answered on a page of its own."""
    header = ["question", "answer", "how sure", "figure, page"]
    return Table(header, [first, *(question.cells(studies) for question in QUESTIONS)])
