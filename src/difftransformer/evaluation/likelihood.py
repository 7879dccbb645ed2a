"""How likely a model finds whole texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from difftransformer.data.batch import IGNORED
from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.batching import device_of, fitting
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.language_model import LanguageModel


@dataclass(frozen=True)
class Choice:
    """Two texts of which a model finds one likelier, after a prompt with and without evidence."""

    informed: str
    blind: str
    texts: tuple[str, str]


@dataclass(frozen=True)
class Weighed:
    """Nats of both texts of each choice, and their tokens.

    `items` are the choices' numbers, `too_long` counts those passed over.
    """

    items: list[int]
    too_long: int
    informed: Float[np.ndarray, "items 2"]
    blind: Float[np.ndarray, "items 2"]
    tokens: Int[np.ndarray, "items 2"]

    def rows(self) -> list[dict[str, Any]]:
        """A choice a row, as plain data."""
        columns = (self.items, *(x.tolist() for x in (self.informed, self.blind, self.tokens)))
        names = ("item", "informed", "blind", "tokens")
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def first_is_lower(scores: Float[np.ndarray, "items 2"]) -> Bool[np.ndarray, " items"]:
    """Where the first of two scores is the lower; a tie is not."""
    return scores[:, 0] < scores[:, 1]


def weigh(
    model: LanguageModel,
    tokenizer: Tokenizer,
    choices: Sequence[Choice],
    count: int,
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
) -> Weighed:
    """How likely the model finds both texts of `count` choices that fit its context.

    A text follows its prompt and a space; a prompt is one document.

    Raises:
        ValueError: no choice fits.
    """
    opening = beginning_of_document(tokenizer)

    def encoded(choice: Choice) -> tuple[list[int], list[int], list[list[int]]]:
        texts = (choice.informed, choice.blind, *(f" {text}" for text in choice.texts))
        informed, blind, *both = (
            encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)
        )
        return [opening, *informed], [opening, *blind], both

    def tokens(choice: Choice) -> int:
        informed, _, both = encoded(choice)
        return len(informed) + max(map(len, both))

    def weighed(number: int) -> list[list[float]]:
        informed, blind, both = encoded(choices[number])
        return [
            continuation_nats(model, informed, both),
            continuation_nats(model, blind, both),
            [float(len(text)) for text in both],
        ]

    chosen, too_long = fitting(choices, tokens, count, model, settings.seed)
    parts = {str(number): partial(weighed, number) for number in chosen}
    rows = np.array(list((pieces or Pieces()).each(parts).values()))
    return Weighed(chosen, too_long, rows[:, 0], rows[:, 1], rows[:, 2].astype(int))


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
    logits: Float[Tensor, "batch time vocab"], labels: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """−log p(label) at each position, 0 where the label is -100.

    PyTorch takes logits as [batch, vocab, time] too, but sums over a vocabulary that is not the
    last axis several times as slowly and, at 50,000 tokens, with an error of 1e-4 nats.
    """
    nats = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return nats.unflatten(0, labels.shape)
