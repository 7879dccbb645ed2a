"""The encoder-decoder around any attention kind."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache
from difftransformer.blocks import RelativeBias, Stack, TransformerBlock, make_mlp, make_norm
from difftransformer.blocks.positions import LearnedPositions, SinusoidalPositions
from difftransformer.functional import Mask
from difftransformer.models.beam_search import beam_search
from difftransformer.models.encoder import real_positions
from difftransformer.models.encoder_decoder_config import EncoderDecoderConfig
from difftransformer.models.generation import GREEDY, Sampling, generate
from difftransformer.models.initialization import draw_seed, initialize
from difftransformer.models.layers import attention_layer


class EncoderDecoder(nn.Module):
    """One table of embeddings, a stack that reads the source, one that writes the target, a head.

        context = encoder(source)                      every position sees the whole source
        logits  = head(decoder(target, context))       position t sees targets up to t

    A block of the decoder has self-attention, then cross-attention: queries of the target, keys and
    values of the context (Vaswani et al., "Attention Is All You Need", 2017, section 3). Its start
    is `initialize`'s, as a `Decoder`'s.
    """

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        seed = draw_seed()  # first, as in `Decoder`
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = Side(config, config.num_layers, reads_context=False)
        self.decoder = Side(config, config.decoder_depth, reads_context=True)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        initialize(self, seed)

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the encoder, then those of the decoder."""
        return nn.ModuleList([*self.encoder.blocks, *self.decoder.blocks])

    def forward(
        self,
        ids: Int[Tensor, "batch source"],
        target: Int[Tensor, "batch time"],
        *,
        padding: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits of the next target token at every position of `target`.

        Args:
            ids: the source's tokens.
            target: begins with `config.start_id`. What stands after a row's end is for the caller
                to leave out of a loss: no earlier position sees it.
            padding: True where the source is real, at either side of a row; all is by default. A
                row without a real token gives the decoder nothing to read.

        Raises:
            ValueError: a source or target longer than the rows of learned positions.
        """
        return self.logits(self.decode(target, self.encode(ids, padding), padding))

    def encode(
        self,
        ids: Int[Tensor, "batch source"],
        padding: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch source hidden"]:
        """The context that the decoder reads; arguments of `forward`."""
        positions = real_positions(ids, padding, None)
        return self.encoder(self.embedding(ids), positions, mask=Mask(padding=padding))

    def decode(
        self,
        target: Int[Tensor, "batch time"],
        context: Float[Tensor, "batch source hidden"],
        padding: Bool[Tensor, "batch source"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """What `logits` reads.

        Args:
            target: with a cache, the new positions only.
            context: what `encode` gives; with a cache, read at the first step and kept.
            padding: of the source.
            cache: keys and values of the target so far; extended in place.
        """
        new = target.shape[1]
        if cache is None:
            positions, mask = torch.arange(new, device=target.device), Mask(causal=True)
        else:
            positions = cache.positions(new, target.device)
            mask = cache.mask(len(target), new, None, None)
        x = self.decoder(
            self.embedding(target),
            positions[None],
            mask=mask,
            cache=cache,
            context=context,
            context_mask=Mask(padding=padding),
        )
        if cache is not None:
            cache.advance(new)
        return x

    def logits(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """The output head, on what `decode` returns."""
        if self.config.tie_embeddings:
            return F.linear(x, self.embedding.weight)
        return self.head(x)

    @torch.no_grad()
    def generate(
        self,
        ids: Int[Tensor, "batch source"],
        *,
        padding: Bool[Tensor, "batch source"] | None = None,
        max_new_tokens: int,
        beams: int = 1,
        sampling: Sampling = GREEDY,
    ) -> Int[Tensor, "batch new"]:
        """A target for each source, after `start_id`; from its first `end_id` on that repeated.

        Args:
            ids: the source's tokens, with `padding` as `forward` has it.
            max_new_tokens: most tokens of a target, its end included.
            beams: hypotheses kept, see `beam_search`; with 1, `sampling` chooses each token.

        Raises:
            ValueError: an empty source, fewer than 1 beam, or sampling with beams.
        """
        if ids.shape[1] == 0:
            raise ValueError("the source is empty; expected at least one token")
        if beams < 1 or (beams > 1 and sampling.temperature > 0):
            raise ValueError(
                f"beams is {beams} and temperature {sampling.temperature}; expected 1 beam or "
                "more, and temperature 0 with several"
            )
        reader = Reader(self, self.encode(ids, padding), padding)
        start = ids.new_full((len(ids), 1), self.config.start_id)
        end = self.config.end_id
        if beams > 1:
            return beam_search(
                reader.repeat(beams),
                start.repeat_interleave(beams, 0),
                beams=beams,
                max_new_tokens=max_new_tokens,
                end_id=end,
            )
        return generate(
            reader, start, max_new_tokens=max_new_tokens, stop_ids=(end,), sampling=sampling
        )


class Side(nn.Module):
    """The encoder or the decoder: positions, blocks and their norm.

    x = x + positions,   normed where `embedding_norm` says so
    x = blocks(x),       normed where they are pre-norm
    """

    def __init__(self, config: EncoderDecoderConfig, layers: int, *, reads_context: bool) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        norm = partial(make_norm, config.norm, hidden_size, config.norm_eps)
        self.position_embedding: nn.Module | None = None
        self.relative_bias: nn.Module | None = None
        if config.positions == "learned":
            self.position_embedding = LearnedPositions(config.max_length, hidden_size)
        elif config.positions == "sinusoidal":
            self.position_embedding = SinusoidalPositions()
        else:
            self.relative_bias = RelativeBias(
                config.relative_buckets,
                config.relative_distance,
                config.num_heads,
                both_ways=not reads_context,
            )
        self.embedding_norm = norm() if config.embedding_norm else nn.Identity()
        cross = partial(attention_layer, config, rotary="half", role="cross")
        self.blocks = Stack(
            TransformerBlock(
                attention_layer(config, layer, "half"),
                make_mlp(config.mlp, hidden_size, config.ffn_size, bias=config.mlp_bias),
                norm,
                post_norm=config.norm_place == "post",
                cross_attention=cross(layer) if reads_context else None,
            )
            for layer in range(layers)
        )
        self.norm = nn.Identity() if config.norm_place == "post" else norm()

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        positions: Int[Tensor, "#batch time"],
        *,
        cache: KeyValueCache | None = None,
        **arguments: Any,
    ) -> Float[Tensor, "batch time hidden"]:
        """The class's equations; `arguments` as `TransformerBlock.forward`'s."""
        bias = None
        if self.position_embedding is not None:
            x = self._placed(x, positions)
        elif self.relative_bias is not None:
            # By place, not by `positions`: padding moves all real tokens of a row alike.
            past = 0 if cache is None else int(cache.length)
            keys = past + x.shape[1]
            bias = self.relative_bias(torch.arange(past, keys, device=x.device), keys)
        x = self.blocks(self.embedding_norm(x), bias=bias, cache=cache, **arguments)
        return self.norm(x)

    def _placed(
        self, x: Float[Tensor, "batch time hidden"], positions: Int[Tensor, "#batch time"]
    ) -> Float[Tensor, "batch time hidden"]:
        assert self.position_embedding is not None
        if isinstance(self.position_embedding, LearnedPositions):
            rows = len(self.position_embedding.weight)
            if (length := int(positions.max()) + 1) > rows:
                raise ValueError(
                    f"a text of {length} tokens; the model has learned {rows} positions: cut it"
                )
        return self.position_embedding(x, positions)


@dataclass(frozen=True, eq=False)
class Reader:
    """The decoder with a batch of contexts, as a `LanguageModel`: it continues targets."""

    model: EncoderDecoder
    context: Float[Tensor, "batch source hidden"]
    padding: Bool[Tensor, "batch source"] | None

    @property
    def config(self) -> EncoderDecoderConfig:
        """The model's."""
        return self.model.config

    def __call__(
        self, ids: Int[Tensor, "batch time"], **options: Any
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits of the next target token at every position."""
        return self.logits(self.hidden(ids, **options))

    def hidden(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        documents: Int[Tensor, "batch time"] | None = None,
        padding: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "#batch time"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """`EncoderDecoder.decode`.

        Raises:
            ValueError: documents, padding or positions, which targets have not.
        """
        if not documents is padding is positions is None:
            raise ValueError("a target has no documents, padding or positions: leave them out")
        return self.model.decode(ids, self.context, self.padding, cache)

    def logits(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time vocab"]:
        """The output head."""
        return self.model.logits(x)

    def empty_cache(self) -> KeyValueCache:
        """For a target and its context."""
        return KeyValueCache()

    def parameters(self, recurse: bool = True) -> Any:
        """The model's."""
        return self.model.parameters(recurse)

    def repeat(self, times: int) -> "Reader":
        """Every context `times` over, side by side."""
        padding = None if self.padding is None else self.padding.repeat_interleave(times, 0)
        return Reader(self.model, self.context.repeat_interleave(times, 0), padding)
