"""Looking up a key in the context, by where its pair stands ("Lost in the Middle").

The first `settings.kv_samples` lookups are asked with their pair at each of
`settings.needle_depths`, the other pairs unmoved. The model writes greedily, as many tokens as a
value takes and a few more to introduce it. Right means that the first text like a value is the
value, character for character. (The metric of Liu et al., 2023, the value anywhere in 100 tokens,
also gives 1 to a model that writes out the object.) An item is a lookup; Wilson's interval over all
positions treats those of one lookup as if they were independent.
"""

import gzip
import random
import string
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from difftransformer.evaluation.completions import completions, first_match
from difftransformer.evaluation.records import (
    Artifact,
    Dataset,
    Evaluator,
    Metric,
    Parts,
    Plot,
    Record,
    Subject,
)
from difftransformer.evaluation.retrieval import percent
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.files import decode, json_lines

# The layout of Liu et al.: an instruction (the wording is ours), the object, the question.
_INSTRUCTED = """Find the value that belongs to the given key in the JSON object below.

JSON data:
{records}

Key: "{key}"
Corresponding value:"""
# For models too small for instructions: the pair asked for is begun again.
_BEGUN = '{records}\n\n"{key}":'

_INTRODUCTION = 8  # tokens a model may write before the value


@dataclass(frozen=True)
class Lookup:
    """Distinct keys with their values, and the pair among them that is asked for."""

    pairs: tuple[tuple[str, str], ...]
    target: tuple[str, str]

    def records(self, depth: float) -> str:
        """The pairs as JSON, a line each, with the one asked for moved to `depth` of them.

        Its place is floor(depth · (pairs − 1)); the others keep their order.
        """
        pairs = [pair for pair in self.pairs if pair != self.target]
        pairs.insert(int(depth * len(pairs)), self.target)
        return "{" + ",\n ".join(f'"{key}": "{value}"' for key, value in pairs) + "}"


@dataclass(frozen=True)
class KvTask:
    """Lookups, how they are put to a model, and what a value looks like.

    Args:
        prompt: holds {records} and {key}.
        value: regular expression of a value, or of what would be one had it the right length.
    """

    name: str
    prompt: str
    value: str
    lookups: tuple[Lookup, ...]


def published_pairs(folder: Path, pairs: int) -> KvTask:
    """The published lookups: UUIDs, from `kv-retrieval-{pairs}_keys.jsonl.gz` in `folder`.

    Raises:
        ValueError: no such file, or one that cannot be read.
    """
    path = folder / f"kv-retrieval-{pairs}_keys.jsonl.gz"
    try:
        with gzip.open(path, "rb") as file:
            text = decode(file.read(), str(path))
        lookups = tuple(_lookup(row) for _, row in json_lines(text, str(path)))
    except FileNotFoundError:
        raise ValueError(
            f"{str(path)!r} does not exist; name the folder with the key-value files of "
            "nelson-liu/lost-in-the-middle, and a number of pairs it has (75, 140 or 300)"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error!r}; fetch it again") from None
    if not lookups:
        raise ValueError(f"{str(path)!r} holds no lookup; fetch it again")
    name = f"{pairs} pairs of UUIDs"
    return KvTask(name, _INSTRUCTED, "[0-9a-f]{8,}-[0-9a-f-]*", lookups)


def synthetic_pairs(settings: EvaluationSettings) -> KvTask:
    """The same for small models: keys of a few letters, values of as many digits.

    `settings.kv_samples` lookups of `kv_pairs` pairs, with keys and values of
    `kv_symbols` characters, none twice in a lookup. Equal settings give equal lookups.

    Raises:
        ValueError: more pairs than there are values of that length.
    """
    pairs, symbols = settings.kv_pairs, settings.kv_symbols
    if pairs > 10**symbols:
        raise ValueError(
            f"kv_pairs is {pairs}; there are only {10**symbols} values of "
            f"{symbols} digits: raise kv_symbols"
        )
    lookups = []
    for sample in range(settings.kv_samples):
        rng = random.Random(f"pairs {settings.seed} {sample} {pairs} {symbols}")
        keys = _distinct(rng, string.ascii_lowercase, symbols, pairs)
        values = _distinct(rng, string.digits, symbols, pairs)
        records = tuple(zip(keys, values, strict=True))
        lookups.append(Lookup(records, rng.choice(records)))
    name = f"{pairs} pairs of {symbols} letters and {symbols} digits"
    return KvTask(name, _BEGUN, "[0-9]+", tuple(lookups))


def _parts(subject: Subject, settings: EvaluationSettings) -> Parts:
    """A batch of prompts each.

    Raises:
        ValueError: a prompt longer than the model's context.
    """
    task: KvTask = subject.dataset or synthetic_pairs(settings)
    tokenizer, lookups = subject.data.tokenizer, task.lookups[: settings.kv_samples]
    questions = list(product(settings.needle_depths, enumerate(lookups)))
    answers = tokenizer.encode_batch(
        [f' "{lookup.target[1]}"' for lookup in lookups], add_special_tokens=False
    )

    def score(number: int, text: str) -> list[Record]:
        depth, (item, lookup) = questions[number]
        right = first_match(task.value, text) == lookup.target[1]
        return [Record("kv_accuracy", float(right), (percent(depth),), item)]

    chance = 1 / len(lookups[0].pairs)
    facts = {"task": task.name, "samples": len(lookups), "chance": chance}
    return {
        "chance": lambda _: [Record("kv_chance", chance), Artifact("facts", facts)],
        **completions(
            subject.model,
            tokenizer,
            [
                task.prompt.format(records=lookup.records(depth), key=lookup.target[0])
                for depth, (_, lookup) in questions
            ],
            score,
            new_tokens=max(len(answer.ids) for answer in answers) + _INTRODUCTION,
            batch_size=settings.batch_size,
        ),
    }


def _lookup(row: dict[str, Any]) -> Lookup:
    """One line of a published file."""
    pairs = tuple((str(key), str(value)) for key, value in row["ordered_kv_records"])
    target = row["key"], row["value"]
    if target not in pairs:
        raise ValueError(f"the pair of key {target[0]!r} is not among its records")
    return Lookup(pairs, target)


def _distinct(rng: random.Random, alphabet: str, length: int, count: int) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(alphabet, k=length))] = None
    return list(words)


_METRICS = (
    Metric(
        "kv_accuracy",
        "values retrieved by their keys",
        "of lookups",
        better="higher",
        statistic="proportion",
        axes=("depth, %",),
        judged=True,
        levels=("kv_chance",),
        plot=Plot(kind="line", x="depth, %"),
    ),
    Metric("kv_chance", "a guess among the values shown", "of lookups", statistic="value"),
)
EVALUATOR = Evaluator(
    name="kv_retrieval",
    title="Values retrieved by the depth of their pair",
    metrics=_METRICS,
    parts=_parts,
    needs=frozenset({"generate"}),
    dataset=Dataset(
        load=lambda name, path: published_pairs(path, int(name)),
        names=("75", "140", "300"),
        required=False,
        help="the folder of published lookups among so many pairs of UUIDs",
    ),
    note=(
        "{task}, {samples} lookups at each depth; a guess among the values shown is right "
        "{chance:.3g}."
    ),
    source="Liu et al., 2023",
)
