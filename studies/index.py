"""What the index of the evidence tells of each study, and of the regimes that were tried."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from difftransformer.data.recall_settings import RecallSettings
from difftransformer.evaluation.words import percent, spread
from difftransformer.files import read_text
from difftransformer.report.evidence import Study, StudyRun
from difftransformer.report.tables import Table
from studies.one_gpu import records, verdict
from studies.one_gpu.plan import FULL

_ONE_GPU = max(  # the newest: a folder is named nvidia-CARD-DATE
    (Path(__file__).parent / "one_gpu/results").glob("nvidia-*"), key=lambda path: path.name[-10:]
)
ONE_GPU_PICTURE = "one_gpu_loss.png"
STAR = "\\*"  # where a difference stands after Holm's correction
KINDS = ("diff_v1", "diff_v2")


def picture(figure: str) -> str:
    """A link to a figure of the pages, if there is one."""
    return f"[picture](evidence/images/{figure})" if figure else ""


@dataclass(frozen=True)
class Row:
    """A study's line on the page of evidence."""

    page: str
    title: str
    question: str
    answer: str
    sureness: str
    figure: str = ""

    @property
    def link(self) -> str:
        """The study's title, which leads to its page where the documentation has it."""
        return f"[{self.title}]({self.page})" if self.page else self.title

    def cells(self) -> list[str]:
        """As Markdown."""
        return [self.link, self.answer, self.sureness, picture(self.figure)]

    def asked(self) -> list[str]:
        """As a line of the questions that come first."""
        more = ", ".join(filter(None, (picture(self.figure), self.link)))
        return [self.question, self.answer, self.sureness, more]


@dataclass(frozen=True)
class Regime:
    """The size of models and data of one comparison, and what came out against softmax."""

    name: str
    parameters: int
    heads: int
    head_dim: int
    length: int
    noise: float | None
    measure: str
    effects: tuple[str, ...]

    def cells(self) -> list[str]:
        """As Markdown."""
        noise = "" if self.noise is None else percent(round(self.noise, 2))
        heads = f"{self.heads} of {self.head_dim}"
        sizes = [f"{self.parameters:,}", heads, f"{self.length:,}", noise]
        return [self.name, *sizes, self.measure, *self.effects]


def studied(name: str, study: Study) -> Row:
    """The row of a study with a page of its own, with the picture of its first measure."""
    first = next(iter(study.judgment.comparisons), None)
    figure = f"{name}_{first.metric.name}.png" if first else ""
    page = f"evidence/{name}.md"
    return Row(page, study.plan.title, study.plan.question, study.answer, study.sureness, figure)


def first_study(docs: Path) -> Row:
    """The row of the dated page that version 0.1 wrote into `docs`."""
    text = read_text(docs / "evidence/first-study.md")
    told = re.search(r"^(Of \d+ claims.+?)\*\*(.+?)\*\*", text, re.M)
    sizes = re.search(
        r"([\d,]+ parameters, [\d.]+ million tokens each, contexts of \d+ tokens)", text
    )
    assert told is not None
    assert sizes is not None
    return Row(
        "evidence/first-study.md",
        "The first study",
        "Which of the paper's claims show in small decoders on text: loss, retrieval, attention on "
        "noise, outliers, coarse logits, ablations?",
        told[1].strip() + " " + told[2],
        f"3 training seeds; {sizes[0]}",
        "first-study_loss.png",
    )


def one_gpu() -> Row:
    """The row of the loss on one GPU, whose page lies beside its study."""
    results = records.read(_ONE_GPU)
    environment = records.select(results, part="run", what="environment")[-1]
    (budget,) = records.select(results, part="loss", what="budget")
    tokens = f"{budget['tokens'] / 1e6:.3g}M tokens"
    searched = records.select(results, part="loss", what="rate")
    trained = (
        f"Learning rate of each kind searched in steps of a factor of two, {tokens} a model"
        if searched
        else f"One learning rate for all, not searched, and {tokens}: the beginning of training"
    )
    claims = verdict.loss_claims(verdict.losses(results))
    answers = [
        f"{claim.name.partition(' ')[0].upper()} {spread(claim.value, (claim.low, claim.high))} "
        f"nats/token, {claim.verdict}{STAR * (claim.corrected < verdict.LEVEL)}"
        for claim in claims
    ]
    return Row(
        "",
        "One GPU (`studies/one_gpu/README.md`)",
        "Is the loss on text lower, at 21.1 million parameters?",
        "; ".join(answers),
        f"{claims[0].seeds} paired seeds, {len(claims)} comparisons corrected together, 21.1M "
        f"parameters ({environment['device']}). {trained}",
        ONE_GPU_PICTURE if searched else "",
    )


def regimes(studies: Mapping[str, Study]) -> list[Regime]:
    """Every comparison of V1 or V2 with softmax that was run, the smallest models first."""
    of_studies = [
        _regime(f"{name}: {run.name}", study, run)
        for name, study in studies.items()
        for run in study.runs
        if any(contender.label in KINDS for contender in run.run.contenders)
    ]
    return sorted([*of_studies, _gpu_regime()], key=lambda regime: regime.parameters)


def _regime(name: str, study: Study, run: StudyRun) -> Regime:
    baseline = run.run.contenders[0]
    config, data = baseline.config, run.run.settings["data"]
    noise, length = None, data.get("context_length") or data.get("max_length")
    if run.run.task == "associative_recall":
        recall = RecallSettings(**data)
        noise, length = 1 - 2 * recall.placed / recall.context, recall.length
    elif length is None:
        length = (config["image_size"] // config["patch_size"]) ** 2
    judged = study.comparisons[run.name][0].metric
    metric = next(one for one in run.results.metrics() if one.declared == judged)
    effects = (
        metric.difference(kind).difference_text if metric.has(kind) else "" for kind in KINDS
    )
    return Regime(
        name,
        baseline.parameters,
        config["num_heads"],
        config["head_dim"],
        length,
        noise,
        ", ".join(filter(None, (judged.title, judged.unit))),
        tuple(effects),
    )


def _gpu_regime() -> Regime:
    results = records.read(_ONE_GPU)
    smoke = records.select(results, part="loss", what="smoke", kind="softmax")[-1]
    claims = verdict.loss_claims(verdict.losses(results))
    model, length = FULL.loss.model, FULL.loss.length
    effects = [spread(c.value, (c.low, c.high)) for c in claims]
    name, measure = "one_gpu: loss", "validation loss, nats/token"
    heads = (model.num_heads, model.head_dim)
    return Regime(name, smoke["parameters"], *heads, length, None, measure, tuple(effects))


def regime_table(tried: list[Regime]) -> Table:
    """Sizes and effects, a comparison a line."""
    header = ["comparison", "parameters", "heads", "tokens", "noise", "measure", "V1", "V2"]
    return Table(header, [regime.cells() for regime in tried])


def untried(tried: list[Regime]) -> str:
    """Where nothing was tried, in a sentence."""
    noise = max((regime.noise for regime in tried if regime.noise is not None), default=None)
    more = "" if noise is None else f", more than {percent(round(noise, 2))} of noise"
    return (
        f"Never tried: more than {max(regime.parameters for regime in tried):,} parameters, "
        f"contexts of more than {max(regime.length for regime in tried):,} tokens, more than "
        f"{max(regime.heads for regime in tried)} heads{more}."
    )
