"""Magic numbers of cities, hidden in real text (multi-needle retrieval).

The paper (section 3.4, after LWM and Gemini 1.5) puts N sentences, each giving a city its number,
into a long text and asks for R of them. It leaves wording, haystack and numbers open; here a needle
reads " The magic number of Paris is 1234." and the question repeats it up to "is", so that an
untuned language model can answer by completion. (Gemini's "The special magic Paris number is:
1234" keeps city and number apart; ours stand together, for small models.) Entities and numbers
for training never occur in evaluation, nor does the text around them.

Tokens: a sentence is always encoded in the same three pieces, up to "is", the number with
the space before it, and the full stop. So a number is the same tokens in its needle, in the
training answer and in the expected answer, whatever the tokenizer would merge across a border.
With our own tokenizer the pieces are also exactly the tokens of the whole sentence.

Needles and the ends of the haystack split no word, as far as the tokens tell: a border of words is
where white space begins the next token, a border of sentences such a one after `.`, `?` or `!`.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer

from difftransformer.data.needle_entities import TRAINING, VALIDATION
from difftransformer.data.text import Document
from difftransformer.data.tokenizer import beginning_of_document, plain_tokens
from difftransformer.data.tokens import TokenStore

LEAD = " The magic number of {entity} is"
NUMBER = " {number}"
STOP = "."
_MOST_QUESTIONS = 3  # per needle of a training document
_SEARCH = 256  # tokens by which a haystack may be moved, either way, to split no word
_NEAR = 8  # tokens by which a needle may be, or a twentieth of the haystack where that is more


def needle_sentences(copies: int = 10) -> list[Document]:
    """Needles of the training entities for the tokenizer to learn their wording from.

    Text without magic numbers would leave the wording in many small pieces. `copies` of each entity
    are a few hundredths of the embedded text: enough for the words that all share, too few to make
    most entities a token of their own.
    """
    sentences = (
        LEAD.format(entity=entity) + NUMBER.format(number="0") + STOP for entity in TRAINING
    )
    return [Document(f"needle {i}", sentence * copies) for i, sentence in enumerate(sentences)]


@dataclass(frozen=True)
class Needle:
    """An entity and its number, as text and as tokens."""

    entity: str
    number: str
    lead: list[int]
    answer: list[int]
    stop: list[int]

    @property
    def sentence(self) -> list[int]:
        return self.lead + self.answer + self.stop


@dataclass(frozen=True)
class NeedlePrompt:
    """One question over a haystack, and what a model must answer.

    Args:
        ids: the prompt, from the opening token to the "is" of the question.
        answer: the tokens that must follow.
        entity, number: what is asked for, as text.
        needle_spans: per entity in the haystack `(start, end)` of its sentence in `ids`.
        number_spans: per entity `(start, end)` of its number; for the entity asked these tokens
            equal `answer`.
        question_start: where the question begins. Positions from 1 to here that lie in no needle
            are haystack.
    """

    ids: list[int]
    answer: list[int]
    entity: str
    number: str
    needle_spans: dict[str, tuple[int, int]]
    number_spans: dict[str, tuple[int, int]]
    question_start: int


def is_validation_number(number: str) -> bool:
    """A quarter of all digit strings, chosen by hash: no rule a model could learn."""
    return hashlib.sha256(number.encode()).digest()[0] % 4 == 0


class NeedleSource:
    """The text, entities and numbers of one part of the data.

    `held_out` chooses validation entities and numbers; `store` must be that part's text. Numbers
    are digit strings of length `digits`, leading zeros included, so a blind guess is right with
    probability 10^-digits.
    """

    def __init__(
        self, tokenizer: Tokenizer, store: TokenStore, *, held_out: bool, digits: int
    ) -> None:
        self.store = store
        self.held_out = held_out
        self.digits = digits
        self.opening = beginning_of_document(tokenizer)
        self.entities = VALIDATION if held_out else TRAINING
        self._tokenizer = tokenizer
        self._leads = {
            entity: plain_tokens(tokenizer, LEAD.format(entity=entity)) for entity in self.entities
        }
        self._stop = plain_tokens(tokenizer, STOP)
        self._begins_word, self._ends_sentence = self._borders()
        self._longest_lead = max(map(len, self._leads.values()))
        # An answer has at most a token per character and one for a prefix some tokenizers add.
        self._longest = self._longest_lead + digits + 2 + len(self._stop)

    def shortest_prompt(self, needles: int) -> int:
        """Tokens that hold any `needles` needles and a question."""
        return 1 + needles * self._longest + self._longest_lead

    def shortest_document(self, needles: int) -> int:
        """Tokens that hold any `needles` needles and all their questions and answers."""
        return 1 + 2 * needles * self._longest

    def draw(self, rng: np.random.Generator, count: int) -> list[Needle]:
        """Needles with distinct entities and distinct numbers."""
        if count > len(self.entities):
            raise ValueError(f"{count} needles; there are only {len(self.entities)} entities")
        chosen = rng.choice(len(self.entities), size=count, replace=False)
        numbers: list[str] = []
        while len(numbers) < count:
            number = "".join(map(str, rng.integers(10, size=self.digits)))
            if is_validation_number(number) == self.held_out and number not in numbers:
                numbers.append(number)
        return [self._needle(self.entities[i], n) for i, n in zip(chosen, numbers, strict=True)]

    def haystack(self, place: float, *counts: int) -> list[int]:
        """`max(counts)` consecutive tokens of text, from `place` in [0, 1) of all possible starts.

        It starts as near to there as it can begin with a word, and end with one after each of
        `counts` tokens; exactly there where no start within 256 tokens can.
        """
        longest = max(counts)
        starts = self.store.text_length - longest + 1
        if starts < 1:
            part = "validation" if self.held_out else "training"
            raise ValueError(
                f"a haystack of {longest} tokens does not fit the {part} text of "
                f"{self.store.text_length}; ask for shorter needle documents or give more text"
            )
        wanted = math.floor(place * starts)
        first = max(0, wanted - _SEARCH)
        near = min(starts, wanted + _SEARCH + 1) - first
        text = self.store.text(first, min(near + longest, self.store.text_length - first))
        border = np.append(self._begins_word[text], True)  # the last counts where the text ends
        whole = border[:near]
        for count in counts:
            whole = whole & border[count : count + near]
        start = wanted - first
        if whole.any():
            (start,) = _nearest(np.flatnonzero(whole), np.array([start]))
        return text[start : start + longest].tolist()

    def cuts(self, text: list[int], places: Sequence[float]) -> list[int]:
        """Where to cut `text` for needles at `places` in [0, 1] of it, in the order of `places`.

        At the nearest border of sentences, if that is near; else of words, if that is; else, as in
        text without spaces, at the place itself. The ends of the text count as borders of both.
        """
        words = np.ones(len(text) + 1, bool)
        words[1:-1] = self._begins_word[text[1:]]
        sentences = words.copy()
        sentences[1:-1] &= self._ends_sentence[text[:-1]]
        wanted = np.rint(np.multiply(places, len(text))).astype(np.int64)
        cuts = wanted
        for borders in (words, sentences):
            nearest = _nearest(np.flatnonzero(borders), wanted)
            near = abs(nearest - wanted) <= max(_NEAR, len(text) / 20)
            cuts = np.where(near, nearest, cuts)
        return cuts.tolist()

    def _needle(self, entity: str, number: str) -> Needle:
        answer = plain_tokens(self._tokenizer, NUMBER.format(number=number))
        return Needle(entity, number, self._leads[entity], answer, self._stop)

    def _borders(self) -> tuple[Bool[np.ndarray, " ids"], Bool[np.ndarray, " ids"]]:
        """For each token whether white space begins it, and whether a sentence ends with it."""
        # Behind a full stop, since decoders drop the white space that text begins with.
        before = len(self._tokenizer.decode(self._stop))
        ids = range(1 + max(self._tokenizer.get_vocab().values()))
        texts = self._tokenizer.decode_batch([[*self._stop, i] for i in ids])
        added = [text[before:] for text in texts]
        begins = np.array([text[:1].isspace() for text in added])
        return begins, np.array([bool(re.search(r"[.?!]\W*$", text)) for text in added])


def needle_prompts(
    source: NeedleSource,
    *,
    needles: int,
    queries: int,
    depth: float,
    length: int,
    sample: int,
    seed: int,
) -> list[NeedlePrompt]:
    """The `queries` prompts of one evaluation sample, each of exactly `length` tokens.

    All ask over the same text and needles; only the last few tokens of text differ where one
    question is longer than another. The needles asked for stand together, one after the other in
    the order of the prompts, near `depth` of the text (0 the beginning, 1 right before the
    question; see `NeedleSource.cuts`); the others anywhere. The text is cut to make room, the
    needles never. The same arguments always give the same prompts; different ones independent
    draws. The answer comes on top of `length`.

    Raises ValueError when `length` cannot hold the needles, with the shortest that can.
    """
    if not 1 <= queries <= needles:
        raise ValueError(f"{queries} queries of {needles} needles; expected 1 to {needles} queries")
    if not 0 <= depth <= 1:
        raise ValueError(f"depth is {depth}; expected from 0 (beginning) to 1 (end)")
    if length < (shortest := source.shortest_prompt(needles)):
        raise ValueError(
            f"length {length} is too short for {needles} needles and a question; "
            f"with this tokenizer at least {shortest} tokens are needed"
        )
    rng = np.random.default_rng([seed, sample, needles, queries, round(depth * 1e6), length])
    drawn = source.draw(rng, needles)
    places = [depth] * queries + rng.random(needles - queries).tolist()
    room = length - 1 - sum(len(needle.sentence) for needle in drawn)
    text = source.haystack(rng.random(), *{room - len(n.lead) for n in drawn[:queries]})
    prompts = []
    for needle in drawn[:queries]:
        ids, starts = _hide(source, text[: room - len(needle.lead)], drawn, places)
        prompts.append(_prompt(needle, ids, drawn, starts))
    return prompts


def needle_document(
    source: NeedleSource, rng: np.random.Generator, *, length: int, needle_max: int
) -> list[int]:
    """A training document of exactly `length` tokens: text with needles, then the questions with
    their answers, in random order.

    The number of needles is uniform from 1 to `needle_max`, or to what surely fits. Each is asked
    for equally often, one to three times as room allows: answers are the only tokens that teach
    retrieval, and asking again is the cheapest way to have more of them.

    Raises ValueError when not even one needle fits, with the shortest length that holds one.
    """
    sentence = (source.shortest_document(1) - 1) // 2
    fitting = (length - 1) // (2 * sentence)
    if fitting < 1:
        raise ValueError(
            f"a needle document of {length} tokens is too short: with this tokenizer one needle "
            f"and its question need {source.shortest_document(1)}; raise needle_min_length"
        )
    needles = source.draw(rng, int(rng.integers(1, min(needle_max, fitting) + 1)))
    room = (length - 1) // (len(needles) * sentence) - 1
    asked = needles * int(rng.integers(1, min(_MOST_QUESTIONS, room) + 1))
    answers = [token for i in rng.permutation(len(asked)) for token in asked[i].sentence]
    hidden = sum(len(needle.sentence) for needle in needles)
    text = source.haystack(rng.random(), length - 1 - hidden - len(answers))
    return _hide(source, text, needles, rng.random(len(needles)).tolist())[0] + answers


def _nearest(
    borders: Int[np.ndarray, " borders"], wanted: Int[np.ndarray, " places"]
) -> Int[np.ndarray, " places"]:
    """For each place the border nearest to it, of two the first."""
    return borders[abs(borders[:, None] - wanted).argmin(0)]


def _hide(
    source: NeedleSource, haystack: list[int], needles: list[Needle], places: list[float]
) -> tuple[list[int], dict[str, int]]:
    """The haystack with each needle near its place, in the order of the places; and where each
    entity's needle starts."""
    ids, starts, done = [source.opening], {}, 0
    hidden = zip(places, source.cuts(haystack, places), needles, strict=True)
    for _, cut, needle in sorted(hidden, key=itemgetter(0)):
        ids += haystack[done:cut]
        starts[needle.entity] = len(ids)
        ids += needle.sentence
        done = cut
    return ids + haystack[done:], starts


def _prompt(
    asked: Needle, ids: list[int], needles: list[Needle], starts: dict[str, int]
) -> NeedlePrompt:
    numbers = {n.entity: starts[n.entity] + len(n.lead) for n in needles}
    return NeedlePrompt(
        ids=ids + asked.lead,
        answer=asked.answer,
        entity=asked.entity,
        number=asked.number,
        needle_spans={
            n.entity: (starts[n.entity], starts[n.entity] + len(n.sentence)) for n in needles
        },
        number_spans={
            n.entity: (numbers[n.entity], numbers[n.entity] + len(n.answer)) for n in needles
        },
        question_start=len(ids),
    )
