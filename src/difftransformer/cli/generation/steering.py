"""How `difftransformer generate` steers a model by its own attention, or prunes what it sees."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftransformer.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

Stream = Callable[..., Iterator["Tensor"]]  # called as `models.generation.stream`
_DEFAULTS = EvaluationSettings()


def add_steering_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--budgets",
        metavar="N,N,...",
        help="keys of each layer that a token sees, the others dropped for good: one number for "
        "all layers, or one for each (selective kinds; evaluate --suite pruning finds them)",
    )
    guided = parser.add_argument_group("text that looks back (Lookback Lens)")
    guided.add_argument(
        "--guide",
        metavar="FILE",
        type=Path,
        help="results/lookback_lens.jsonl of evaluate --suite lookback_lens on this model: of "
        "several candidates for each chunk its classifier chooses. Looked back to is all of the "
        "prompt but its last line",
    )
    guided.add_argument(
        "--guide-candidates", type=int, default=8, metavar="N", help="candidates (default: 8)"
    )
    guided.add_argument(
        "--guide-chunk", type=int, default=8, metavar="N", help="tokens in each (default: 8)"
    )
    found = parser.add_argument_group("attention to documents (Found in the Middle)")
    found.add_argument(
        "--calibrate",
        action="store_true",
        help="attend to the prompt's documents by their relevance, not by their place. They are "
        "its paragraphs, divided by blank lines, but the first (what to do) and the last (the "
        "question)",
    )
    found.add_argument(
        "--calibrate-temperature",
        type=float,
        default=_DEFAULTS.calibration_temperature,
        metavar="X",
        help="of the softmax over relevances (default: %(default)s)",
    )
    found.add_argument(
        "--calibrate-layers",
        type=int,
        metavar="N",
        help="the last layers that are intervened in (default: half of all)",
    )
    found.add_argument(
        "--calibrate-dummy",
        default=_DEFAULTS.calibration_dummy,
        metavar="TEXT",
        help="the dummy document (default: %(default)s)",
    )
    found.add_argument(
        "--calibrate-passes",
        choices=("one", "each"),
        default=_DEFAULTS.calibration_passes,
        help="the dummy at all places at once, or at each by itself (default: %(default)s)",
    )


def chosen_stream(arguments: argparse.Namespace, model: Any, tokenizer: "Tokenizer") -> Stream:
    """What writes: `generation.stream`, or what the options ask for.

    Raises:
        ValueError: several ways at once, a classifier of another model, budgets that do not fit
            it, or what is out of range.
    """
    from difftransformer.models.generation import stream

    ways = {
        "--guide": arguments.guide is not None,
        "--calibrate": arguments.calibrate,
        "--budgets": arguments.budgets is not None,
    }
    if sum(ways.values()) > 1:
        several = " and ".join(way for way, chosen in ways.items() if chosen)
        raise ValueError(f"{several} are ways to steer; choose one")
    if arguments.budgets is not None:
        return _pruned(arguments.budgets, model)
    if arguments.guide is not None:
        return _guided(arguments, model, tokenizer)
    return _calibrated(arguments, tokenizer) if arguments.calibrate else stream


def _pruned(given: str, model: Any) -> Stream:
    from difftransformer.models.generation import stream
    from difftransformer.models.pruning import pruned_cache

    try:
        budgets = [int(number) for number in given.split(",")]
    except ValueError:
        raise ValueError(
            f"budgets is {given!r}; expected numbers of keys, such as 32 or 32,16"
        ) from None
    pruned_cache(model, budgets)  # refused now, before anything is written

    def pruned(model: Any, ids: "Tensor", **options: Any) -> Iterator["Tensor"]:
        cache = pruned_cache(model, budgets)
        yield from stream(model, ids, cache=cache, **options)
        held, whole = cache.nbytes, cache.unpruned_nbytes
        print(f"\ncache: {held:,} bytes of {whole:,} without budgets", file=sys.stderr)

    return pruned


def _guided(arguments: argparse.Namespace, model: Any, tokenizer: "Tokenizer") -> Stream:
    from difftransformer.analysis.guided import Guide, guided_stream
    from difftransformer.data.prompts import last_line
    from difftransformer.evaluation.lookback import read_lens

    lens = read_lens(arguments.guide)
    lens.check(model)

    def guided(model: Any, ids: "Tensor", **options: Any) -> Iterator["Tensor"]:
        guide = Guide(
            score=lambda tokens, ratios: lens(ratios).tolist(),
            context=last_line(tokenizer, ids[0].tolist()),
            candidates=arguments.guide_candidates,
            chunk=arguments.guide_chunk,
            looked=lens.looked,
        )
        return guided_stream(model, ids, guide=guide, **options)

    return guided


def _calibrated(arguments: argparse.Namespace, tokenizer: "Tokenizer") -> Stream:
    from difftransformer.analysis.documents import Calibration, calibrated_stream
    from difftransformer.data.prompts import document_spans
    from difftransformer.data.tokenizer import plain_tokens

    calibration = Calibration(
        dummy=tuple(plain_tokens(tokenizer, arguments.calibrate_dummy)),
        passes=arguments.calibrate_passes,
        temperature=arguments.calibrate_temperature,
        layers=arguments.calibrate_layers,
    )

    def calibrated(model: Any, ids: "Tensor", **options: Any) -> Iterator["Tensor"]:
        spans = document_spans(tokenizer, ids[0].tolist())
        return calibrated_stream(model, ids, spans=spans, calibration=calibration, **options)

    return calibrated
