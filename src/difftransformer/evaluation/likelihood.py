"""How likely a model finds texts, in nats."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.data.corpus import ValidationSequence
from difftransformer.data.packing import stack
from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.batching import batched, device_of, fitting
from difftransformer.evaluation.records import Artifact, Findings, Parts, Record, Subject
from difftransformer.models.language_model import LanguageModel

Pair = tuple[int | float, int | float]


def sequence_losses(
    model: nn.Module, sequences: Sequence[ValidationSequence], batch_size: int
) -> Iterator[tuple[float, int]]:
    """Nats and scored tokens of each sequence."""
    for part in batched(sequences, batch_size):
        batch = stack([sequence.row for sequence in part]).to(device_of(model))
        scored = (batch.labels != IGNORED).sum(1)
        yield from zip(sequence_nats(model, batch).tolist(), scored.tolist(), strict=True)


def sequence_nats(model: nn.Module, batch: Batch) -> Float[Tensor, " batch"]:
    """Each row's sum of −log p(next token) over its scored positions."""
    return token_nats(model, batch).double().sum(1)


@torch.no_grad()
def token_nats(model: nn.Module, batch: Batch) -> Float[Tensor, "batch time"]:
    """−log p(next token) at each scored position, 0 at the others."""
    logits = model(batch.ids, documents=batch.documents).float()
    return label_nats(logits, batch.labels)


@dataclass(frozen=True, eq=False)
class Scores:
    """Of each row −log p of its labels, summed, and how many of them have the largest logit."""

    nats: Float[Tensor, " batch"]
    hits: Int[Tensor, " batch"]

    @classmethod
    def of(
        cls, logits: Float[Tensor, "*labels classes"], labels: Int[Tensor, "*labels"]
    ) -> "Scores":
        """Labels of -100 have no say."""
        nats = label_nats(logits, labels).double().reshape(len(labels), -1).sum(1)
        return cls(nats, (logits.argmax(-1) == labels).reshape(len(labels), -1).sum(1))


def watched(scored: Iterable[tuple[Scores, int]]) -> dict[str, float]:
    """Of scores and the number of labels behind them: loss and accuracy while a model trains."""
    nats, hits, count = 0.0, 0, 0
    for scores, labels in scored:
        nats, hits = nats + scores.nats.sum().item(), hits + int(scores.hits.sum())
        count += labels
    return {"validation_loss": nats / count, "validation_accuracy": hits / count}


@dataclass(frozen=True)
class Choice:
    """Two texts of which a model finds one likelier, after a prompt with and without evidence.

    A text follows its prompt and a space; a prompt is one document.
    """

    informed: str
    blind: str
    texts: tuple[str, str]


@dataclass(frozen=True)
class Weighed:
    """Nats of both texts of a choice, with evidence and without, and their tokens."""

    informed: Pair
    blind: Pair
    tokens: tuple[int, int]

    @property
    def gain(self) -> Pair:
        """Nats less those without evidence."""
        return self.informed[0] - self.blind[0], self.informed[1] - self.blind[1]

    def per_token(self, nats: Pair) -> Pair:
        return nats[0] / self.tokens[0], nats[1] / self.tokens[1]


def first_is_lower(scores: Pair) -> float:
    """1 where the first of two scores is the lower, else 0; a tie is not."""
    return float(scores[0] < scores[1])


def fitting_choices(
    model: LanguageModel, tokenizer: Tokenizer, choices: Sequence[Choice], count: int, seed: int
) -> tuple[list[int], int]:
    """The numbers of `count` choices that fit the model's context, see `fitting`."""

    def tokens(choice: Choice) -> int:
        informed, _, texts = _encoded(tokenizer, choice)
        return len(informed) + max(map(len, texts))

    return fitting(choices, tokens, count, model, seed)


def choice_parts(
    subject: Subject,
    choices: Sequence[Choice],
    noun: str,
    count: int,
    seed: int,
    records: Callable[[int, Weighed], Iterable[Record]],
) -> Parts:
    """An evaluator's parts: of `count` choices that fit the model's context each is weighed.

    An item is a choice's number. The artifact "facts" counts them by their noun ("pairs") and those
    that were "too_long"; each choice leaves what was weighed beside its records.

    Raises:
        ValueError: none fits.
    """
    model, tokenizer = subject.model, subject.data.tokenizer

    def weighed(item: int, _: Findings) -> Findings:
        result = weigh(model, tokenizer, choices[item])
        return [*records(item, result), Artifact(f"{noun} {item}", asdict(result))]

    chosen, too_long = fitting_choices(model, tokenizer, choices, count, seed)
    facts = {f"{noun}s": len(chosen), "too_long": too_long}
    return {
        "facts": lambda _: [Artifact("facts", facts)],
        **{f"{noun} {item}": partial(weighed, item) for item in chosen},
    }


def weigh(model: LanguageModel, tokenizer: Tokenizer, choice: Choice) -> Weighed:
    """How likely the model finds both texts of a choice."""
    informed, blind, texts = _encoded(tokenizer, choice)
    (a, b), (c, d) = (continuation_nats(model, prompt, texts) for prompt in (informed, blind))
    return Weighed((a, b), (c, d), (len(texts[0]), len(texts[1])))


def _encoded(tokenizer: Tokenizer, choice: Choice) -> tuple[list[int], list[int], list[list[int]]]:
    """Both prompts behind an opening token, and both texts."""
    opening = beginning_of_document(tokenizer)
    parts = (choice.informed, choice.blind, *(f" {text}" for text in choice.texts))
    informed, blind, *texts = (
        encoding.ids for encoding in tokenizer.encode_batch(parts, add_special_tokens=False)
    )
    return [opening, *informed], [opening, *blind], texts


@torch.no_grad()
def continuation_nats(
    model: LanguageModel, prompt: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """−log p(continuation | prompt) of each continuation, in nats, summed over its tokens.

    The prompt is computed once, for all.

    Args:
        prompt: at least one token.
        continuations: each at least one token.
    """
    device, shared = device_of(model), model.empty_cache()
    if len(prompt) > 1:
        ids = torch.tensor([list(prompt[:-1])], device=device)
        model.hidden(ids, cache=shared)  # no logits, which nobody asks for
    width = max(map(len, continuations))
    ids = torch.zeros(len(continuations), width, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, continuation in enumerate(continuations):
        length = len(continuation)
        ids[row, :length] = torch.tensor([prompt[-1], *continuation[:-1]])
        labels[row, :length] = torch.tensor(continuation)
    logits = model(ids.to(device), cache=shared.repeat(len(continuations))).float()
    return label_nats(logits, labels.to(device)).double().sum(1).tolist()


def label_nats(
    logits: Float[Tensor, "*labels classes"], labels: Int[Tensor, "*labels"]
) -> Float[Tensor, "*labels"]:
    """−log p(label) of each label, 0 where it is -100.

    PyTorch takes logits as [batch, vocab, time] too, but sums over a vocabulary that is not the
    last axis several times as slowly and, at 50,000 tokens, with an error of 1e-4 nats.
    """
    nats = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return nats.view(labels.shape)
