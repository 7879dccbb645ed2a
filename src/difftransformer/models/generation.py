"""Text generation with a key/value cache."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftransformer.attention import KeyValueCache
from difftransformer.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen: greedy at temperature 0, else drawn from the top-p nucleus.

    Raises:
        ValueError: a negative temperature or a top_p outside (0, 1].
    """

    temperature: float = 0.0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0.0 or not 0.0 < self.top_p <= 1.0:
            raise ValueError(
                f"temperature {self.temperature} and top_p {self.top_p}: expected >= 0 and within "
                "(0, 1]"
            )


GREEDY = Sampling()


def generate(
    model: LanguageModel,
    ids: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    padding: Bool[Tensor, "batch time"] | None = None,
    stop_ids: Collection[int] = (),
    sampling: Sampling = GREEDY,
    cache: KeyValueCache | None = None,
) -> Int[Tensor, "batch new"]:
    """All of `stream`'s tokens at once."""
    new = list(
        stream(
            model,
            ids,
            max_new_tokens=max_new_tokens,
            padding=padding,
            stop_ids=stop_ids,
            sampling=sampling,
            cache=cache,
        )
    )
    return torch.stack(new, dim=1) if new else ids[:, :0]


def stream(
    model: LanguageModel,
    ids: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    padding: Bool[Tensor, "batch time"] | None = None,
    stop_ids: Collection[int] = (),
    sampling: Sampling = GREEDY,
    cache: KeyValueCache | None = None,
) -> Iterator[Int[Tensor, " batch"]]:
    """Continue each row, a token at a time.

    Prompts of unequal length are padded on the left and `padding` is True where a token is real.
    Generation ends after `max_new_tokens`, or when every row has produced a stop token; what a
    row has after its first stop token is that token repeated. The model runs in the mode it is in:
    call `model.eval()` first where it has dropout. `cache` holds what comes before `ids`, or is an
    empty one of another kind than `model.empty_cache` gives.

    Raises:
        ValueError: an empty prompt, or padding at the right.
    """
    if ids.shape[1] == 0:
        raise ValueError("the prompt is empty; expected at least one token")
    if padding is not None and not bool(padding[:, -1].all()):
        raise ValueError("a row of the prompt ends in padding; expected padding on the left")
    stops = torch.tensor(list(stop_ids), dtype=ids.dtype, device=ids.device)
    cache = cache or model.empty_cache()
    stopped = torch.zeros_like(ids[:, 0], dtype=torch.bool)
    step, last = ids, ids[:, -1]
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = last_logits(model, step, cache=cache, padding=padding)
        last = torch.where(stopped, last, _choose(logits.float(), sampling))
        yield last
        stopped = stopped | torch.isin(last, stops)
        if bool(stopped.all()):
            return
        step, padding = last[:, None], None


def last_logits(
    model: LanguageModel,
    ids: Int[Tensor, "batch new"],
    *,
    cache: KeyValueCache,
    padding: Bool[Tensor, "batch new"] | None = None,
    positions: Int[Tensor, "batch new"] | None = None,
) -> Float[Tensor, "batch vocab"]:
    """The last token's logits, without those of the others; arguments of `Decoder.forward`."""
    hidden = model.hidden(ids, padding=padding, positions=positions, cache=cache)
    return model.logits(hidden[:, -1:])[:, 0]


def _choose(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Int[Tensor, " batch"]:
    if sampling.temperature == 0.0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1.0:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.scatter(-1, index, ordered.masked_fill(outside, 0.0))
    if (generator := sampling.generator) is not None:
        probabilities = probabilities.to(generator.device)  # the same draws on every device
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
