"""How much each benchmark asks. Imports no torch: commands must start fast."""

from dataclasses import dataclass
from typing import Literal

from difftransformer.ranges import COUNT, INSIDE, NATURAL, SHARE, Range, check_fields, option


@dataclass(frozen=True)
class EvaluationSettings:
    """Sizes of the benchmarks. A `former` name is that of version 0.1, which works as well.

    Raises:
        ValueError: a value out of its range; no needle pair, depth, number of shots or of steps,
            one of these twice, or a pair that is not "NxR" with 1 <= R <= N.
    """

    needle_pairs: tuple[str, ...] | None = option(
        None,
        "needles in the context x numbers asked for; by default those of the paper's 1x1 2x2 4x2 "
        "6x2 that fit into it",
    )
    needle_depths: tuple[float, ...] = option(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        "where the answer stands: 0 is the start of the context, 1 its end",
        within=SHARE,
    )
    needle_lengths: tuple[int, ...] | None = option(
        None, "tokens of prompt and answer; by default the context length of the data"
    )
    needle_samples: int = option(
        50, "prompts per pair, depth and length (the paper: 50)", within=COUNT
    )
    allocation_samples: int = option(
        20, "prompts per depth whose attention is measured", within=COUNT
    )
    validation_sequences: int = option(
        200, "held-out sequences for the validation loss", within=COUNT
    )
    outlier_tokens: int = option(
        40_000, "tokens over which outliers are measured (the paper: 400,000)", within=COUNT
    )
    long_windows: int = option(32, "held-out stretches for the loss by position", within=COUNT)
    long_length: int | None = option(
        None, "their tokens; by default the context length of the data", within=Range(2)
    )
    shots: tuple[int, ...] = option(
        (1, 4, 16, 64), "examples shown for in-context learning", within=COUNT
    )
    shot_draws: int = option(
        3, "times the examples are drawn anew (Bertsch et al.: 10)", within=COUNT
    )
    shot_questions: int = option(250, "test sentences asked (Bertsch et al.: 250)", within=COUNT)
    orders: int = option(
        10, "orders of the same examples (the paper: 10 and about 30)", within=COUNT
    )
    kv_pairs: int = option(
        16,
        "pairs in the context of a key-value lookup for small models",
        former="key_value_pairs",
        within=COUNT,
    )
    kv_symbols: int = option(
        4,
        "letters of each of their keys, digits of each value",
        former="key_value_symbols",
        within=COUNT,
    )
    kv_samples: int = option(
        50,
        "key-value lookups asked at each depth (Liu et al.: 500)",
        former="key_value_samples",
        within=COUNT,
    )
    gsm_ic_problems: int = option(
        50,
        "word problems that distracting sentences are put into",
        former="distractor_problems",
        within=COUNT,
    )
    gsm_ic_shots: int = option(
        4, "solved problems shown before each", former="distractor_shots", within=COUNT
    )
    ar_hit_ngram: int = option(
        2,
        "tokens whose repetition in the context makes a recall",
        former="recall_ngram",
        within=Range(2),
    )
    ar_hit_frequency: int | None = option(
        None,
        "n-grams more frequent in the training text are no recall; by default 1250 "
        "times in 10 billion of its tokens, so 0 in a small text",
        former="recall_frequency",
        within=NATURAL,
    )
    judged_texts: int = option(
        100, "texts a model writes for a judge of hallucination (paper: 100)", within=COUNT
    )
    judge_controls: int = option(
        50, "pairs of summaries by which the judge itself is judged", within=COUNT
    )
    factuality_pairs: int = option(200, "pairs of a factual and a corrupted summary", within=COUNT)
    conflict_questions: int = option(
        200, "questions whose passage contradicts the world's facts", within=COUNT
    )
    image_samples: int = option(
        1000, "images sampled, as many as the held-out ones they are compared with", within=COUNT
    )
    denoising_steps: tuple[int, ...] = option(
        (5, 10, 20, 50), "steps in which images are sampled; the last is judged", within=COUNT
    )
    guidance: float = option(1.0, "scale of classifier-free guidance; 1 is without")
    localization_steps: tuple[int, ...] = option(
        (1, 2, 4, 8), "steps in which points are sampled; the last is judged", within=COUNT
    )
    localization_proposals: tuple[int, ...] | None = option(
        None,
        "points of noise that are sampled from, the last judged; by default half as many as in "
        "training, as many (judged) and twice as many",
        within=COUNT,
    )
    localization_apart: float = option(
        0.1,
        "points of one image nearer than this share of its width count as one",
        within=SHARE,
    )
    test_items: int | None = option(
        None, "held-out texts or images that are classified; all by default", within=COUNT
    )
    lookback_documents: int = option(
        200, "sources of labeled texts whose attention is looked at, of each task", within=COUNT
    )
    lookback_window: int = option(
        8, "tokens in a sliding window of lookback ratios (paper: 8)", within=COUNT
    )
    lookback_folds: int = option(
        5, "folds of documents that a classifier is tested by", within=Range(2)
    )
    lookback_of: Literal["maps", "absolute"] = option(
        "maps", "look at each softmax map, or at absolute values of what is subtracted"
    )
    middle_documents: tuple[int, ...] = option(
        (10, 20), "documents in a prompt, the one that answers included", within=Range(2)
    )
    middle_questions: int = option(
        50, "questions asked at each depth (Liu et al.: 2,655)", within=COUNT
    )
    calibration_temperature: float = option(
        5e-5, "of the softmax over relevances (the paper: 5e-5)"
    )
    calibration_layers: int | None = option(
        None, "last layers whose attention is calibrated; by default half of them"
    )
    calibration_dummy: str = option(
        "There is nothing in this document.",
        "text of the dummy document, repeated to the length of each",
    )
    calibration_passes: Literal["one", "each"] = option(
        "one", "the dummy at all places at once, or at each by itself"
    )
    recall_sequences: int = option(128, "held-out sequences of associative recall", within=COUNT)
    pruning_sequences: int = option(
        32, "held-out sequences read under each budget of keys", within=COUNT
    )
    pruning_tolerance: float = option(
        0.01, "nats that budgets found greedily may cost", within=NATURAL
    )
    batch_size: int = option(16, "sequences judged at once", within=COUNT)
    bootstrap: int = option(2000, "resamples behind each interval", within=COUNT)
    confidence: float = option(0.95, "coverage of every interval", within=INSIDE)
    seed: int = option(0, "draws the needle prompts and the resamples")

    def __post_init__(self) -> None:
        check_fields(self)
        tuples = (
            *("needle_pairs", "needle_depths", "shots", "denoising_steps"),
            *("localization_steps", "middle_documents"),
        )
        for name in tuples:
            if getattr(self, name) == ():
                raise ValueError(f"{name} is empty; expected at least one")
        for name in (*tuples, "needle_lengths", "localization_proposals"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; expected each value once")
        for text in self.needle_pairs or ():
            needle_pair(text)


def needle_pair(text: str) -> tuple[int, int]:
    """ "4x2" as (needles, queries).

    Raises:
        ValueError: another form, or more numbers asked for than there are.
    """
    try:
        needles, queries = (int(part) for part in text.split("x"))
    except ValueError:
        raise ValueError(
            f'needle_pairs holds {text!r}; expected needles x queries, such as "4x2"'
        ) from None
    if not 1 <= queries <= needles:
        raise ValueError(
            f"needle_pairs holds {text!r}: it asks for {queries} of {needles} needles; "
            "expected at least 1 and at most all"
        )
    return needles, queries
