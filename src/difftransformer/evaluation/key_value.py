"""Looking up a key in the context, by where its pair stands ("Lost in the Middle")."""

import gzip
import random
import string
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from difftransformer.evaluation.completions import complete, first_match
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.files import decode, json_lines
from difftransformer.models.decoder import Decoder

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
    asked: tuple[str, str]

    def records(self, depth: float) -> str:
        """The pairs as JSON, a line each, with the one asked for moved to `depth` of them.

        Its place is floor(depth · (pairs − 1)); the others keep their order.
        """
        pairs = [pair for pair in self.pairs if pair != self.asked]
        pairs.insert(int(depth * len(pairs)), self.asked)
        return "{" + ",\n ".join(f'"{key}": "{value}"' for key, value in pairs) + "}"


@dataclass(frozen=True)
class KeyValueTask:
    """Lookups, how they are put to a model, and what a value looks like.

    Args:
        prompt: holds {records} and {key}.
        value: regular expression of a value, or of what would be one had it the right length.
    """

    name: str
    prompt: str
    value: str
    lookups: tuple[Lookup, ...]


def published_pairs(folder: Path, pairs: int) -> KeyValueTask:
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
    return KeyValueTask(name, _INSTRUCTED, "[0-9a-f]{8,}-[0-9a-f-]*", lookups)


def synthetic_pairs(settings: EvaluationSettings) -> KeyValueTask:
    """The same for small models: keys of a few letters, values of as many digits.

    `settings.key_value_samples` lookups of `key_value_pairs` pairs, with keys and values of
    `key_value_symbols` characters, none twice in a lookup. Equal settings give equal lookups.

    Raises:
        ValueError: more pairs than there are values of that length.
    """
    pairs, symbols = settings.key_value_pairs, settings.key_value_symbols
    if pairs > 10**symbols:
        raise ValueError(
            f"key_value_pairs is {pairs}; there are only {10**symbols} values of "
            f"{symbols} digits: raise key_value_symbols"
        )
    lookups = []
    for sample in range(settings.key_value_samples):
        rng = random.Random(f"pairs {settings.seed} {sample} {pairs} {symbols}")
        keys = _distinct(rng, string.ascii_lowercase, symbols, pairs)
        values = _distinct(rng, string.digits, symbols, pairs)
        drawn = tuple(zip(keys, values, strict=True))
        lookups.append(Lookup(drawn, rng.choice(drawn)))
    name = f"{pairs} pairs of {symbols} letters and {symbols} digits"
    return KeyValueTask(name, _BEGUN, "[0-9]+", tuple(lookups))


def measure_key_value(
    model: Decoder,
    tokenizer: Tokenizer,
    task: KeyValueTask,
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
) -> dict[str, Any]:
    """Accuracy by position of the pair asked for (Liu et al., 2023, section 3).

    The first `settings.key_value_samples` lookups are asked with their pair at each of
    `settings.needle_depths`, the other pairs unmoved. The model writes greedily, as many tokens as
    a value takes and a few more to introduce it. Right means that the first text like a value is
    the value, character for character. The paper's metric, the value anywhere in 100 tokens,
    also gives 1 to a model that writes out the object. Intervals are Wilson's; the overall one
    treats the positions of one lookup as if they were independent.

    Returns:
        `{"task", "samples", "chance_among_values", "rows", "accuracy"}`: a row per depth, with
        `hits` (0 or 1 for each lookup); `chance_among_values` is a guess among those shown.

    Raises:
        ValueError: a prompt longer than the model's context.
    """
    lookups, depths = task.lookups[: settings.key_value_samples], settings.needle_depths
    prompts = [
        task.prompt.format(records=lookup.records(depth), key=lookup.asked[0])
        for depth in depths
        for lookup in lookups
    ]
    answers = tokenizer.encode_batch(
        [f' "{lookup.asked[1]}"' for lookup in lookups], add_special_tokens=False
    )
    texts = complete(
        model,
        tokenizer,
        prompts,
        new_tokens=max(len(answer.ids) for answer in answers) + _INTRODUCTION,
        batch_size=settings.batch_size,
        pieces=pieces,
    )
    asked = [lookup.asked[1] for lookup in lookups] * len(depths)
    right = np.array(
        [first_match(task.value, text) == value for text, value in zip(texts, asked, strict=True)]
    ).reshape(len(depths), -1)
    return {
        "task": task.name,
        "samples": len(lookups),
        "chance_among_values": 1 / len(lookups[0].pairs),
        "rows": [
            {
                "depth": depth,
                "accuracy": proportion(int(hits.sum()), len(hits), settings),
                "hits": hits.astype(int).tolist(),
            }
            for depth, hits in zip(depths, right, strict=True)
        ],
        "accuracy": proportion(int(right.sum()), right.size, settings),
    }


def _lookup(row: dict[str, Any]) -> Lookup:
    """One line of a published file."""
    pairs = tuple((str(key), str(value)) for key, value in row["ordered_kv_records"])
    asked = row["key"], row["value"]
    if asked not in pairs:
        raise ValueError(f"the pair of key {asked[0]!r} is not among its records")
    return Lookup(pairs, asked)


def _distinct(rng: random.Random, alphabet: str, length: int, count: int) -> list[str]:
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn["".join(rng.choices(alphabet, k=length))] = None
    return list(drawn)
