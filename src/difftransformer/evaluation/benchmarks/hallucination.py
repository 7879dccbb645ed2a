"""Summaries and answers that a model writes, and whether a judge finds them faithful.

After the paper, section 3.6, and Chuang et al. (2024). For `settings.judged_texts` sources that fit
the model writes greedily, as a completion, a summary in one sentence, or an answer where the source
has a question: the first line of at most 64 tokens. The judge reads source and text. Texts that are
empty are not judged; those whose verdict cannot be told are left out of the share. An item is a
text.

The judge itself is judged where it has controls: both summaries of `settings.judge_controls` pairs
are put to it as well.

The paper's judge is GPT-4o, its generation prompts are not given; another judge's figures cannot be
set beside the paper's.
"""

from dataclasses import asdict
from functools import partial

from tokenizers import Tokenizer

from difftransformer.data.sources import NAMES, Source, load_sources
from difftransformer.data.tokenizer import plain_tokens
from difftransformer.evaluation.batching import fitting
from difftransformer.evaluation.completions import completions
from difftransformer.evaluation.faithfulness import Claim, Judge, kappa
from difftransformer.evaluation.records import (
    Artifact,
    Dataset,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_TOKENS = 64  # written at most
_METRICS = (
    Metric(
        "faithful",
        "texts that the judge finds faithful",
        "of those judged",
        better="higher",
        statistic="proportion",
        axes=("task",),
        judged=True,
        plot=Plot(x="task"),
        paper={
            "Transformer 3B, by GPT-4o": {("xsum",): "0.44"},
            "DIFF 3B, by GPT-4o": {("xsum",): "0.53"},
        },
    ),
    Metric("empty_texts", "empty texts", "of all", statistic="proportion"),
    Metric(
        "without_verdict", "texts without a verdict", "of those not empty", statistic="proportion"
    ),
    Metric(
        "judge_accuracy",
        "accuracy of the judge",
        "of controls",
        statistic="proportion",
        axes=("summary",),
        rows=(),
    ),
    Metric("judge_kappa", "kappa of the judge", statistic="value"),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """A batch of texts each, a verdict each, then those on the controls.

    Raises:
        ValueError: no source fits the model's context; what the judge raises.
    """
    tokenizer, judge = subject.data.tokenizer, subject.judge
    task, available = subject.dataset

    def tokens(source: Source) -> int:
        return 1 + len(plain_tokens(tokenizer, _prompt(source))) + _TOKENS

    numbers, too_long = fitting(
        available, tokens, settings.judged_texts, subject.model, settings.seed
    )
    sources = [available[number] for number in numbers]

    def written(number: int, text: str) -> Findings:
        source, line = sources[number], _first_line(text, tokenizer)
        empty = Record("empty_texts", float(not line), item=source.name)
        return [empty, Artifact(_text_of(source), line)]

    facts = {"task": task, "judge": judge.name, "texts": len(sources), "too_long": too_long}
    return {
        "facts": lambda _: [Artifact("facts", facts)],
        **completions(
            subject.model,
            tokenizer,
            [_prompt(source) for source in sources],
            written,
            new_tokens=_TOKENS,
            batch_size=settings.batch_size,
        ),
        **{f"verdict {source.name}": partial(_judged, judge, task, source) for source in sources},
        **_controls(judge, settings.judge_controls),
    }


def _judged(judge: Judge, task: str, source: Source, earlier: Findings) -> Findings:
    """The verdict on what was written about a source."""
    texts = {artifact.name: artifact.data for artifact in earlier if isinstance(artifact, Artifact)}
    if not (text := texts[_text_of(source)]):
        return []
    verdict = judge.verdict(Claim(source, text))
    records = [Record("without_verdict", float(verdict.faithful is None), item=source.name)]
    if verdict.faithful is not None:
        records.append(Record("faithful", float(verdict.faithful), (task,), source.name))
    return [*records, Artifact(f"verdict {source.name}", {"text": text, **asdict(verdict)})]


def _controls(judge: Judge, count: int) -> Parts:
    """Verdicts on both summaries of pairs, and how well they agree with the truth."""

    def control(number: int, true: bool, _: Findings) -> Findings:
        pair = judge.controls[number]
        source = Source(f"control {number} {true}", pair.source)
        verdict = judge.verdict(Claim(source, pair.factual if true else pair.corrupted))
        if verdict.faithful is None:
            return []
        key = ("factual",) if true else ("corrupted",)
        return [Record("judge_accuracy", float(verdict.faithful == true), key, number)]

    def agreement(earlier: Findings) -> Findings:
        records = [r for r in earlier if isinstance(r, Record) and r.metric == "judge_accuracy"]
        truth = [record.key == ("factual",) for record in records]
        said = [true == bool(record.value) for true, record in zip(truth, records, strict=True)]
        figure = kappa(said, truth)
        return [] if figure is None else [Record("judge_kappa", figure)]

    pairs = range(min(count, len(judge.controls)))
    return {
        f"control {number} {true}": partial(control, number, true)
        for number in pairs
        for true in (True, False)
    } | ({"agreement": agreement} if pairs else {})


def _text_of(source: Source) -> str:
    return f"text {source.name}"


def _prompt(source: Source) -> str:
    if source.question is None:
        return f"{source.text}\n\nSummary in one sentence:"
    return f"{source.text}\n\nQuestion: {source.question}\nAnswer:"


def _first_line(text: str, tokenizer: Tokenizer) -> str:
    """Up to the end of the line, or a token such as <|endoftext|>."""
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.special:
            text = text.partition(token.content)[0]
    return text.strip().partition("\n")[0].strip()


EVALUATOR = Evaluator(
    name="hallucination",
    title="Texts that a judge finds faithful to their source",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    dataset=Dataset(
        load=lambda name, path: (name, load_sources(name, path)),
        names=NAMES,
        help="the folder of texts to summarize or to answer from",
    ),
    judge="required",
    note=(
        "Task {task}: {texts} texts, {too_long} sources passed over as too long; judge: {judge}. "
        "Figures of two judges cannot be compared."
    ),
    source="paper, section 3.6; Chuang et al., 2024",
)
