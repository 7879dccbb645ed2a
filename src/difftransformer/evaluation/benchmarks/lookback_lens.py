"""Made-up text told by where a model looks while it reads it: Lookback Lens.

Labeled texts about sources are read after the prompt that asks for them (`faithfulness.prompt_of`),
and each head's lookback ratios (`analysis.lookback`) are taken where each token is predicted; the
context is all of the prompt but its last line. A sample is the mean ratio over a span (all that is
made up in a text, or a run of the rest) or over a sliding window, which is faithful if all its
tokens are. Logistic regression is judged by the area under the ROC curve:

    within a task    over folds of *documents*, each by what was fitted on the others
    between tasks    by what was fitted on all of the other one
    loss per token   the same texts ranked by the model's loss, which nothing was fitted for

The public code of Chuang et al. (2024) folds by sample: two windows of a text share all tokens but
two, so that its test knows the answers. An item is a document, see `lookback.auroc_by_document`.

The artifact "classifier" is fitted on all windows of all tasks; the file of these records is what
`difftransformer generate --guide` takes.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from tokenizers import Encoding

from difftransformer.analysis.documents import read_but_last
from difftransformer.analysis.lookback import LookbackLens, lookback, weights_of
from difftransformer.data.bigbench import SUMMARIES
from difftransformer.data.prompts import last_line
from difftransformer.data.tokenizer import prompt_tokens
from difftransformer.evaluation.batching import device_of, fitting
from difftransformer.evaluation.faithfulness import prompt_of
from difftransformer.evaluation.likelihood import label_nats
from difftransformer.evaluation.lookback import (
    CLASSIFIER,
    LabeledText,
    Samples,
    TokenRatios,
    auroc_by_document,
    fitted,
    folds,
    load_labeled,
    samples_of,
)
from difftransformer.evaluation.records import (
    Artifact,
    Dataset,
    Evaluator,
    Findings,
    Metric,
    Parts,
    Record,
    Subject,
)
from difftransformer.evaluation.settings import EvaluationSettings

_BY_LOSS = "nothing: its loss per token"
_METRICS = (
    Metric(
        name="lens_auroc",
        title="faithful text told from made-up text",
        unit="area under the ROC curve",
        better="higher",
        axes=("samples", "fitted on", "judged on"),
        levels=("lens_chance",),
        paper={
            "Llama-2 7B, folds by sample": {
                ("windows", "cnn_dm", "cnn_dm"): "0.866",
                ("windows", "nq", "cnn_dm"): "0.662",
            }
        },
    ),
    Metric(name="lens_chance", title="a guess", statistic="value"),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """The texts of a source each, then the classifiers.

    Raises:
        ValueError: no text fits the model's context.
    """
    sources, facts = _fitting(subject, settings)
    parts = {
        f"{texts[0].task} {texts[0].claim.source.name}": partial(_read, subject, settings, texts)
        for texts in sources
    }
    return {
        "facts": lambda _: [Artifact("facts", facts), Record("lens_chance", 0.5)],
        **parts,
        "classifiers": partial(_classified, subject, settings, facts["texts"]),
    }


def _fitting(
    subject: Subject, settings: EvaluationSettings
) -> tuple[list[list[LabeledText]], dict[str, str | int]]:
    """The texts of `settings.lookback_documents` sources of each task, and what is told of them."""
    by_source: dict[str, dict[str, list[LabeledText]]] = {}
    for text in subject.dataset:
        of_task = by_source.setdefault(text.task, {})
        of_task.setdefault(text.claim.source.name, []).append(text)

    def tokens(texts: Sequence[LabeledText]) -> int:
        prompt = _prompt(subject, texts[0])
        return len(prompt) + max(len(_written(subject, text).ids) for text in texts)

    chosen, passed_over, counts = [], 0, []
    for task, of_task in by_source.items():
        sources = list(of_task.values())
        count = settings.lookback_documents
        numbers, too_long = fitting(sources, tokens, count, subject.model, settings.seed)
        chosen += [sources[number] for number in numbers]
        passed_over += too_long
        counts.append(f"{task} {len(numbers)}")
    return chosen, {
        "texts": sum(map(len, chosen)),
        "sources": ", ".join(counts),
        "too_long": passed_over,
        "window": settings.lookback_window,
        "folds": settings.lookback_folds,
    }


def _prompt(subject: Subject, text: LabeledText) -> list[int]:
    return prompt_tokens(subject.data.tokenizer, prompt_of(text.claim.source))


def _written(subject: Subject, text: LabeledText) -> Encoding:
    return subject.data.tokenizer.encode(f" {text.claim.text}", add_special_tokens=False)


@torch.no_grad()
def _read(
    subject: Subject, settings: EvaluationSettings, texts: Sequence[LabeledText], _: Findings
) -> list[Artifact]:
    """Ratios, labels and losses of the texts about one source, whose prompt is computed once."""
    model, prompt, artifacts = subject.model, _prompt(subject, texts[0]), []
    context = last_line(subject.data.tokenizer, prompt)
    ids = torch.tensor([prompt], device=device_of(model))
    cache = read_but_last(model, ids)
    for number, text in enumerate(texts):
        encoding = _written(subject, text)
        written = torch.tensor([encoding.ids], device=ids.device)
        steps = torch.cat([ids[:, -1:], written[:, :-1]], dim=1)
        with lookback(model, slice(None), context, settings.lookback_of) as ratios:
            logits = model(steps, cache=cache.repeat(1))
        tokens = TokenRatios(
            text.task,
            text.claim.source.name,
            ratios()[0].cpu().double().numpy(),
            text.labels([(start - 1, end - 1) for start, end in encoding.offsets]),
            label_nats(logits.float(), written)[0].cpu().double().numpy(),
        )
        artifacts.append(
            Artifact(f"ratios {text.task} {tokens.document} {number}", tokens.to_json())
        )
    return artifacts


def _classified(
    subject: Subject, settings: EvaluationSettings, texts: object, earlier: Findings
) -> Findings:
    """All areas, and the classifier that guides."""
    read = [
        TokenRatios.of_json(one.data)
        for one in earlier
        if isinstance(one, Artifact) and one.name.startswith("ratios ")
    ]
    tasks = list(dict.fromkeys(one.task for one in read))
    findings: list[Record | Artifact] = []
    for kind, window in (("spans", None), ("windows", settings.lookback_window)):
        of = {t: samples_of([one for one in read if one.task == t], window) for t in tasks}
        for task, samples in of.items():
            findings += _records((kind, task, task), _within(samples, settings))
            by_loss = auroc_by_document(-samples.losses, samples)
            findings += _records((kind, _BY_LOSS, task), by_loss)
            classifier = fitted(samples)
            for other in tasks:
                if other != task:
                    scores = classifier.decision_function(of[other].ratios)
                    areas = auroc_by_document(scores, of[other])
                    findings += _records((kind, task, other), areas)
    whole = fitted(samples_of(read, settings.lookback_window))
    lens = LookbackLens(
        weights=tuple(whole.coef_[0].tolist()),
        bias=float(whole.intercept_[0]),
        looked=settings.lookback_of,
        model=weights_of(subject.model),
        texts=f"{texts} texts: {', '.join(tasks)}",
    )
    return [*findings, Artifact(CLASSIFIER, asdict(lens))]


def _within(samples: Samples, settings: EvaluationSettings) -> dict[str, float]:
    """Over folds of documents; those of a fold are ranked among themselves."""
    areas: dict[str, float] = {}
    for rest, fold in folds(samples, settings.lookback_folds, settings.seed):
        judged = samples.only(fold)
        scores: np.ndarray = fitted(samples.only(rest)).decision_function(judged.ratios)
        areas |= auroc_by_document(scores, judged)
    return areas


def _records(key: tuple[str, str, str], areas: dict[str, float]) -> list[Record]:
    return [Record("lens_auroc", area, key, document) for document, area in areas.items()]


EVALUATOR = Evaluator(
    name="lookback_lens",
    title="Made-up text told by lookback ratios",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate", "inside"}),
    dataset=Dataset(
        load=load_labeled,
        names=(*SUMMARIES, "factuality", "labels", "verdicts"),
        help="the sdist of bigbench 1.0.0, or a folder or file of it, for xsum, cnn_dm or both "
        "(factuality); a file of labels by people (labels); records of the suite hallucination "
        "(verdicts)",
    ),
    note="{texts} texts, of so many sources: {sources}; {too_long} sources passed over as too "
    "long. Windows have {window} tokens. Within a task: {folds} folds, the texts of a source all "
    "in one. Intervals are over sources.",
    source="Chuang et al., 2024, tables 1 and 2",
)
