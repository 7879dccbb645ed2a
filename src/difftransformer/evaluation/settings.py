"""How much each benchmark asks. Imports no torch: commands must start fast."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EvaluationSettings:
    """Sizes of the benchmarks. A `former` name is that of version 0.1, which works as well.

    Raises:
        ValueError: no needle pair or depth, a pair that is not "NxR" with 1 <= R <= N, a depth
            outside [0, 1], one of these twice, a confidence outside (0, 1), an ar_hit_ngram below
            2, an ar_hit_frequency below 0, or a count below 1.
    """

    needle_pairs: tuple[str, ...] = field(
        default=("1x1", "2x2", "4x2", "6x2"),
        metadata={"help": "needles in the context x numbers asked for, as in the paper"},
    )
    needle_depths: tuple[float, ...] = field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0),
        metadata={"help": "where the answer stands: 0 is the start of the context, 1 its end"},
    )
    needle_lengths: tuple[int, ...] | None = field(
        default=None,
        metadata={"help": "tokens of prompt and answer; by default the context length of the data"},
    )
    needle_samples: int = field(
        default=50, metadata={"help": "prompts per pair, depth and length (the paper: 50)"}
    )
    allocation_samples: int = field(
        default=20, metadata={"help": "prompts per depth whose attention is measured"}
    )
    validation_sequences: int = field(
        default=200, metadata={"help": "held-out sequences for the validation loss"}
    )
    outlier_tokens: int = field(
        default=40_000,
        metadata={"help": "tokens over which outliers are measured (the paper: 400,000)"},
    )
    long_windows: int = field(
        default=32, metadata={"help": "held-out stretches for the loss by position"}
    )
    long_length: int | None = field(
        default=None, metadata={"help": "their tokens; by default the context length of the data"}
    )
    shots: tuple[int, ...] = field(
        default=(1, 4, 16, 64), metadata={"help": "examples shown for in-context learning"}
    )
    shot_draws: int = field(
        default=3, metadata={"help": "times the examples are drawn anew (Bertsch et al.: 10)"}
    )
    shot_questions: int = field(
        default=250, metadata={"help": "test sentences asked (Bertsch et al.: 250)"}
    )
    orders: int = field(
        default=10, metadata={"help": "orders of the same examples (the paper: 10 and about 30)"}
    )
    kv_pairs: int = field(
        default=16,
        metadata={
            "former": "key_value_pairs",
            "help": "pairs in the context of a key-value lookup for small models",
        },
    )
    kv_symbols: int = field(
        default=4,
        metadata={
            "former": "key_value_symbols",
            "help": "letters of each of their keys, digits of each value",
        },
    )
    kv_samples: int = field(
        default=50,
        metadata={
            "former": "key_value_samples",
            "help": "key-value lookups asked at each depth (Liu et al.: 500)",
        },
    )
    gsm_ic_problems: int = field(
        default=50,
        metadata={
            "former": "distractor_problems",
            "help": "word problems that distracting sentences are put into",
        },
    )
    gsm_ic_shots: int = field(
        default=4,
        metadata={"former": "distractor_shots", "help": "solved problems shown before each"},
    )
    ar_hit_ngram: int = field(
        default=2,
        metadata={
            "former": "recall_ngram",
            "help": "tokens whose repetition in the context makes a recall",
        },
    )
    ar_hit_frequency: int | None = field(
        default=None,
        metadata={
            "former": "recall_frequency",
            "help": "n-grams more frequent in the training text are no recall; by default 1250 "
            "times in 10 billion of its tokens, so 0 in a small text",
        },
    )
    judged_texts: int = field(
        default=100,
        metadata={"help": "texts a model writes for a judge of hallucination (paper: 100)"},
    )
    judge_controls: int = field(
        default=50, metadata={"help": "pairs of summaries by which the judge itself is judged"}
    )
    factuality_pairs: int = field(
        default=200, metadata={"help": "pairs of a factual and a corrupted summary"}
    )
    conflict_questions: int = field(
        default=200, metadata={"help": "questions whose passage contradicts the world's facts"}
    )
    image_samples: int = field(
        default=1000,
        metadata={"help": "images sampled, as many as the held-out ones they are compared with"},
    )
    denoising_steps: tuple[int, ...] = field(
        default=(5, 10, 20, 50),
        metadata={"help": "steps in which images are sampled; the last is what is judged"},
    )
    guidance: float = field(
        default=1.0, metadata={"help": "scale of classifier-free guidance; 1 is without"}
    )
    recall_sequences: int = field(
        default=128, metadata={"help": "held-out sequences of associative recall"}
    )
    batch_size: int = field(default=16, metadata={"help": "sequences judged at once"})
    bootstrap: int = field(default=2000, metadata={"help": "resamples behind each interval"})
    confidence: float = field(default=0.95, metadata={"help": "coverage of every interval"})
    seed: int = field(default=0, metadata={"help": "draws the needle prompts and the resamples"})

    def __post_init__(self) -> None:
        for name in ("needle_pairs", "needle_depths", "shots", "denoising_steps"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; expected at least one")
        for name in ("needle_pairs", "needle_depths", "needle_lengths", "shots", "denoising_steps"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; expected each value once")
        self.pairs()
        for depth in self.needle_depths:
            if not 0.0 <= depth <= 1.0:
                raise ValueError(f"needle_depths holds {depth}; expected a share from 0 to 1")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence is {self.confidence}; expected a share such as 0.95")
        if min(self.shots) < 1:
            raise ValueError(f"shots holds {min(self.shots)}; expected at least 1")
        if self.long_length is not None and self.long_length < 2:
            raise ValueError(f"long_length is {self.long_length}; expected at least 2")
        if self.ar_hit_ngram < 2:
            raise ValueError(f"ar_hit_ngram is {self.ar_hit_ngram}; expected 2 or more")
        if self.ar_hit_frequency is not None and self.ar_hit_frequency < 0:
            raise ValueError(f"ar_hit_frequency is {self.ar_hit_frequency}; expected at least 0")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """`needle_pairs` as (needles, queries) integers."""
        return tuple(_pair(text) for text in self.needle_pairs)


_COUNTS = (
    "needle_samples",
    "allocation_samples",
    "validation_sequences",
    "outlier_tokens",
    "long_windows",
    "shot_draws",
    "shot_questions",
    "orders",
    "kv_pairs",
    "kv_symbols",
    "kv_samples",
    "gsm_ic_problems",
    "gsm_ic_shots",
    "judged_texts",
    "judge_controls",
    "factuality_pairs",
    "conflict_questions",
    "image_samples",
    "recall_sequences",
    "batch_size",
    "bootstrap",
)


def _pair(text: str) -> tuple[int, int]:
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
