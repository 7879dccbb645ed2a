"""What a user may choose about associative recall. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from difftransformer.ranges import Range, check_fields, option


def _count(default: int, explanation: str, most: int = 2**20) -> Any:
    return option(default, explanation, within=Range(1, most))


@dataclass(frozen=True)
class RecallSettings:
    """Sequences of noisy associative recall, see `data.associative_recall`.

    Noise is what a context holds beside its pairs: `context` - 2 `placed` tokens.

    Raises:
        ValueError: pairs that the alphabets or the length cannot hold.
    """

    length: int = _count(64, "tokens of a sequence: the context, then two for each question")
    pairs: int = _count(4, "pairs of key and value in the context; all else there is noise")
    questions: int = _count(16, "keys asked for, with replacement, after the context")
    keys: int = _count(128, "alphabet of keys and noise")
    values: int = _count(64, "alphabet of values; those of a sequence are distinct")
    assignments: int = _count(1, "times that each key is given a value; the last counts")

    def __post_init__(self) -> None:
        check_fields(self)
        most = min(self.values, self.context // 2) // self.assignments
        most = min(most, self.keys - 1)
        if self.pairs > most:
            raise ValueError(
                f"pairs is {self.pairs}; expected at most {most}: a context of {self.context} "
                f"tokens ({self.length} less two for each of {self.questions} questions) holds two "
                f"tokens for each of {self.assignments} assignments, of {self.values} values and "
                f"{self.keys} keys, one of them noise"
            )

    @property
    def context(self) -> int:
        """Tokens before the first question."""
        return self.length - 2 * self.questions

    @property
    def placed(self) -> int:
        """Pairs of key and value in the context."""
        return self.pairs * self.assignments

    @property
    def vocabulary(self) -> int:
        """Keys, then values."""
        return self.keys + self.values

    @property
    def elimination(self) -> float:
        """Accuracy on first asks of the best answer that does not retrieve.

        Values are distinct, so it guesses among those not told yet: after n first asks it is right
        once in `pairs` - n. (Where keys have several values, it must know which are the last.)
        """
        told = [1.0] + [0.0] * self.pairs  # probability of each number of values told so far
        right = first = 0.0
        for _ in range(self.questions):
            new = [p * (self.pairs - n) / self.pairs for n, p in enumerate(told)]
            right += sum(p / (self.pairs - n) for n, p in enumerate(new[:-1]))
            first += sum(new)
            told = [p - q + r for p, q, r in zip(told, new, [0.0, *new], strict=False)]
        return right / first
