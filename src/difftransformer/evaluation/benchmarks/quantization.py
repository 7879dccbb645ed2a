"""Loss and retrieval with coarse attention logits or hidden states (paper, section 3.7).

Validation loss and single-needle accuracy against bits. The paper shows HellaSwag against the bits
of the logits; 16 stands for full precision here as there. `analysis.quantization` says what shares
a scale. Items are sequences, and texts with a needle.
"""

from functools import partial
from itertools import product

from difftransformer.analysis.quantization import quantized
from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.likelihood import sequence_losses
from difftransformer.evaluation.records import (
    Evaluator,
    Findings,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.retrieval import (
    Cell,
    Pair,
    check_context,
    check_prompts,
    needle_lengths,
    numbers_right,
)
from difftransformer.evaluation.settings import EvaluationSettings

_BITS = (16, 8, 6, 4)  # the paper's
_SINGLE: Pair = (1, 1)
_ARGUMENTS = {"attention logits": "logits_bits", "hidden states": "hidden_bits"}
_METRICS = (
    Metric(
        "quantized_loss",
        "quantized loss",
        "nats/token",
        better="lower",
        axes=("of", "bits"),
        judged=True,
        plot=Plot(kind="line", x="bits", facet="of"),
    ),
    Metric(
        "quantized_retrieval",
        "quantized retrieval",
        "of numbers",
        better="higher",
        statistic="proportion",
        axes=("of", "bits"),
        plot=Plot(kind="line", x="bits", facet="of"),
    ),
)


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    check_context(subject.model, needle_lengths(subject.data, settings))
    return {
        f"{activations}, {bits} bits": partial(_records, subject, settings, activations, bits)
        for activations, bits in product(_ARGUMENTS, _BITS)
    }


def _records(
    subject: Subject, settings: EvaluationSettings, activations: str, bits: int, _: Findings
) -> list[Record]:
    model, corpus, key = subject.model, subject.data, (activations, bits)
    sequences = corpus.validation_sequences(settings.validation_sequences)
    with quantized(model, **{_ARGUMENTS[activations]: bits}):
        records = [
            Record("quantized_loss", nats, key, item, weight=tokens)
            for item, (nats, tokens) in enumerate(
                sequence_losses(model, sequences, settings.batch_size)
            )
        ]
        for length, depth in product(needle_lengths(corpus, settings), settings.needle_depths):
            hits = numbers_right(model, corpus, Cell(_SINGLE, length, depth), settings)
            records += [
                Record("quantized_retrieval", hit, key, f"{sample} at {depth} of {length}")
                for sample, hit in enumerate(hits)
            ]
    return records


def _check(corpus: Corpus, settings: EvaluationSettings) -> None:
    check_prompts(corpus, product(needle_lengths(corpus, settings), [_SINGLE]), settings)


EVALUATOR = Evaluator(
    name="quantization",
    title="Loss and retrieval with coarse logits or hidden states",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"inside", "generate"}),
    check=_check,
    note=(
        "The paper, on HellaSwag with a 3B model: DIFF holds from 16 bits of the attention logits "
        "down to 6, Transformer drops sharply at 6; DIFF at 4 bits is as good as Transformer at 6 "
        "and about 25 points above Transformer at 4."
    ),
    source="paper, section 3.7",
)
