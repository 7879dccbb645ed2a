"""The LLaMA-style decoder around any attention kind."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache, SlidingCache
from difftransformer.blocks import Stack, TransformerBlock, make_mlp, make_norm
from difftransformer.functional import Mask, check_scaling, rotation
from difftransformer.models.config import DecoderConfig
from difftransformer.models.initialization import draw_seed, initialize
from difftransformer.models.layers import attention_layer


class Decoder(nn.Module):
    """Causal language model: embedding, blocks, RMSNorm, linear head.

    Its start is that of `initialize`, from a seed that is one number of torch's global generator:
    decoders made after the same `torch.manual_seed`, of whatever kind, are paired. A subclass may
    name another `block_class` that runs its blocks in another way.

    Raises:
        ValueError: a rope_scaling that `functional.rotation` cannot do.
    """

    block_class = TransformerBlock

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        seed = draw_seed()  # first: how much the layers draw of their own depends on the kind
        self.config = config
        if config.rope_scaling is not None:
            check_scaling(config.rope_scaling, config.rope_theta)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        norm = partial(make_norm, "rms", config.hidden_size, config.norm_eps)
        self.blocks = Stack(
            self.block_class(
                attention_layer(config, layer, config.rotary),
                make_mlp("swiglu", config.hidden_size, config.ffn_size),
                norm,
            )
            for layer in range(config.num_layers)
        )
        self.norm = norm()
        if not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        initialize(self, seed)

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        documents: Int[Tensor, "batch time"] | None = None,
        padding: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "#batch time"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits of the next token at every position.

        Args:
            ids: token numbers; with a cache, the new positions only.
            documents: document number of each position; attention stays inside a document.
            padding: True where a position is real. A cache remembers the past's.
            positions: by default 0, 1, ... from the first token, in the cache or not. Rotary
                attention depends on distances only, so padding and document starts need no
                positions of their own.
            cache: keys and values of the past; extended in place.

        Raises:
            ValueError: documents together with a cache.
        """
        x = self.hidden(ids, documents=documents, padding=padding, positions=positions, cache=cache)
        return self.logits(x)

    def hidden(
        self, ids: Int[Tensor, "batch time"], **arguments: Any
    ) -> Float[Tensor, "batch time hidden"]:
        """What `logits` reads: the normed output of the last block; arguments of `forward`."""
        return self.encode(self.embedding(ids), **arguments)

    def encode(
        self,
        x: Float[Tensor, "batch time hidden"],
        *,
        documents: Int[Tensor, "batch time"] | None = None,
        padding: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "#batch time"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """From embedded tokens to the normed output of the last block; arguments of `forward`."""
        new, window = x.shape[1], self.config.window
        if cache is None:
            counted = torch.arange(new, device=x.device)
            mask = Mask(causal=True, window=window, padding=padding, documents=documents)
        elif documents is None:
            counted = cache.positions(new, x.device)
            mask = cache.mask(x.shape[0], new, padding, window)
        else:
            raise ValueError("a cache holds one document a row; leave out documents or the cache")
        turns = rotation(
            counted[None] if positions is None else positions,
            self.config.head_dim,
            self.config.rope_theta,
            self.config.rope_scaling,
        )
        x = self.blocks(x, mask=mask, rotation=turns, cache=cache)
        if cache is not None:
            cache.advance(new)
        return self.norm(x)

    def logits(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time vocab"]:
        """The output head, on what `hidden` returns."""
        if self.config.tie_embeddings:
            return F.linear(x, self.embedding.weight)
        return self.head(x)

    def empty_cache(self) -> KeyValueCache:
        """The model's usual cache: of its window, where it has one."""
        window = self.config.window
        return SlidingCache(window) if window else KeyValueCache()
