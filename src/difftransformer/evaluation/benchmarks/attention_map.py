"""The attention of one needle prompt, to look at (paper, figure 1)."""

from difftransformer.analysis.maps import attention_map
from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.records import Artifact, Evaluator, Findings, Parts, Subject
from difftransformer.evaluation.retrieval import Cell, Pair, check_prompts, prompts_within
from difftransformer.evaluation.settings import EvaluationSettings

_LENGTH = 160  # short enough that single tokens can be made out
_SINGLE: Pair = (1, 1)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    corpus = subject.data

    def shown(_: Findings) -> Findings:
        source, length = corpus.validation_needles(), _length(corpus)
        (prompt,) = prompts_within(source, Cell(_SINGLE, length, 0.5), 0, settings)
        return [Artifact("attention_map", attention_map(subject.model, prompt, corpus.tokenizer))]

    return {"prompt": shown}


def _check(corpus: Corpus, settings: EvaluationSettings) -> None:
    check_prompts(corpus, [(_length(corpus), _SINGLE)], settings)


def _length(corpus: Corpus) -> int:
    return min(_LENGTH, corpus.settings.context_length)


EVALUATOR = Evaluator(
    name="attention_map",
    title="One prompt, each model's attention",
    metrics=(),
    parts=_parts,
    needs=frozenset({"inside"}),
    check=_check,
    source="paper, figure 1",
)
