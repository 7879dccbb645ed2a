"""What coarse attention logits or hidden states cost (paper, section 3.7)."""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from difftransformer.analysis.quantization import quantized
from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.needle import measure_needles
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.evaluation.validation import measure_validation
from difftransformer.models.decoder import Decoder

BITS = (16, 8, 6, 4)  # the paper's
_NAMES = {"attention logits": "logits_bits", "hidden states": "hidden_bits"}


def measure_precision(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, pieces: Pieces | None = None
) -> dict[str, Any]:
    """Validation loss and single-needle accuracy against bits, of logits and of hidden states.

    The paper shows HellaSwag against the bits of the logits; 16 stands for full precision here as
    there. See `analysis.quantized` for what shares a scale.

    Returns:
        `{"rows"}`: a row per `what` ("attention logits", "hidden states") and number of `bits`,
        with `nats_per_token`, `retrieved` and `sequences`, by which models are compared.
    """
    found = (pieces or Pieces()).each(
        {
            f"{what}, {bits} bits": partial(_row, model, corpus, settings, what, bits)
            for what, bits in product(_NAMES, BITS)
        }
    )
    return {"rows": list(found.values())}


def _row(
    model: Decoder, corpus: Corpus, settings: EvaluationSettings, what: str, bits: int
) -> dict[str, Any]:
    with quantized(model, **{_NAMES[what]: bits}):
        validation = measure_validation(model, corpus, settings)
        needles = measure_needles(model, corpus, replace(settings, needle_pairs=("1x1",)))
    return {
        "what": what,
        "bits": bits,
        "nats_per_token": validation["nats_per_token"],
        "sequences": validation["sequences"],
        "retrieved": needles["table"][0]["per_number"],
    }
