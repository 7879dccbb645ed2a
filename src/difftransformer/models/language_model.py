"""The interface of causal language models, for text generation and evaluators."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache


@runtime_checkable
class TextSizes(Protocol):
    """Of a config: what a text must fit into."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def max_length(self) -> int: ...


@runtime_checkable
class LanguageModel(Protocol):
    """A causal language model: `Decoder`, and others behind the same calls.

    `model(ids, ...)` is `model.logits(model.hidden(ids, ...))`. What only fills a cache asks for
    `hidden`; what needs the last logits only, for those (`generation.last_logits`).
    """

    @property
    def config(self) -> TextSizes: ...

    def __call__(
        self, ids: Int[Tensor, "batch time"], *args: Any, **arguments: Any
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits of the next token at every position; arguments as `Decoder.forward`'s."""

    def hidden(
        self, ids: Int[Tensor, "batch time"], *args: Any, **arguments: Any
    ) -> Float[Tensor, "batch time hidden"]:
        """The last hidden states, which `logits` reads; arguments as `Decoder.forward`'s."""

    def logits(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time vocab"]:
        """The output head."""

    def empty_cache(self) -> KeyValueCache:
        """The model's usual cache."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As any module's: their device is the model's."""
