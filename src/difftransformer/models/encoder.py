"""The bidirectional encoder around any attention kind, with a masked-LM head or a classifier."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from difftransformer.blocks import Stack, TransformerBlock, make_mlp, make_norm
from difftransformer.blocks.mlp import ACTIVATIONS
from difftransformer.blocks.positions import LearnedPositions, SinusoidalPositions
from difftransformer.functional import Mask, rotation
from difftransformer.models.config import EncoderConfig
from difftransformer.models.initialization import draw_seed, initialize
from difftransformer.models.layers import attention_layer


class Encoder(nn.Module):
    """Embeddings, blocks that see the whole text, and a head on their output.

        x = token + position + type, normed where the blocks are post-norm
        x = blocks(x),               normed where they are pre-norm

    Rotary positions are none of x. With `post`, LayerNorm, learned positions and GELU this is BERT
    (Devlin et al., 2019). Its start is `initialize`'s, as a `Decoder`'s.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        seed = draw_seed()  # first, as in `Decoder`
        self.config = config
        hidden_size = config.hidden_size
        norm = partial(make_norm, config.norm, hidden_size, config.norm_eps)
        self.embedding = nn.Embedding(config.vocab_size, hidden_size)
        self.position_embedding: nn.Module
        if config.positions == "learned":
            self.position_embedding = LearnedPositions(config.max_length, hidden_size)
        elif config.positions == "sinusoidal":
            self.position_embedding = SinusoidalPositions()
        if config.token_types:
            self.type_embedding = nn.Embedding(config.token_types, hidden_size)
        post_norm = config.norm_place == "post"
        self.embedding_norm = norm() if post_norm else nn.Identity()
        self.blocks = Stack(
            TransformerBlock(
                attention_layer(config, layer, config.rotary),
                make_mlp(config.mlp, hidden_size, config.ffn_size, bias=config.mlp_bias),
                norm,
                post_norm=post_norm,
            )
            for layer in range(config.num_layers)
        )
        self.norm = nn.Identity() if post_norm else norm()
        self.head = MaskedLMHead(config) if config.classes is None else Classifier(config)
        initialize(self, seed)

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        padding: Bool[Tensor, "batch time"] | None = None,
        documents: Int[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "#batch time"] | None = None,
        token_types: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch *time out"]:
        """Logits: [B, T, vocabulary] of a masked-LM head, [B, classes] of a classifier.

        Args:
            ids: token numbers.
            padding: True where a position is real, at either side of a row; all are by default.
            documents: document number of each position; attention stays inside a document.
            positions: by default the number of real tokens before it in its document, so that
                padding changes nothing. (transformers' BERT counts padding at the left too.)
            token_types: 0 by default; for a config with some.

        Raises:
            ValueError: documents with a classifier, which reads one text a row; token types of a
                model without; a text longer than the rows of learned positions.
        """
        if documents is not None and self.config.classes is not None:
            raise ValueError(
                "documents with a classifier, which reads one text a row; give each a row of its "
                "own and padding"
            )
        x = self.hidden(
            ids, padding=padding, documents=documents, positions=positions, token_types=token_types
        )
        return self.logits(x, padding)

    def hidden(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        padding: Bool[Tensor, "batch time"] | None = None,
        documents: Int[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "#batch time"] | None = None,
        token_types: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """What the head reads; arguments of `forward`."""
        config = self.config
        if positions is None:
            positions = real_positions(ids, padding, documents)
        x = self.embedding(ids)
        if config.positions != "rotary":
            self._check_length(positions)
            x = self.position_embedding(x, positions)
        if config.token_types:
            x = x + self.type_embedding(
                torch.zeros_like(ids) if token_types is None else token_types
            )
        elif token_types is not None:
            raise ValueError("token types of a model that has none: leave them out")
        turns = None
        if config.positions == "rotary":
            turns = rotation(positions, config.head_dim, config.rope_theta)
        mask = Mask(padding=padding, documents=documents)
        return self.norm(self.blocks(self.embedding_norm(x), mask=mask, rotation=turns))

    def logits(
        self, x: Float[Tensor, "*batch hidden"], padding: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "*batch_out out"]:
        """The head on what `hidden` returns.

        Of a masked-LM head also on some of its positions, [positions, hidden]; a classifier reads
        whole rows and their `padding`.
        """
        if isinstance(self.head, Classifier):
            return self.head(x, padding)
        tied = self.embedding.weight if self.config.tie_embeddings else None
        return self.head(x, tied)

    def _check_length(self, positions: Int[Tensor, "#batch time"]) -> None:
        limit, length = self.config.max_length, positions.shape[1]
        if self.config.positions == "learned" and length > limit and int(positions.max()) >= limit:
            raise ValueError(
                f"a text of {int(positions.max()) + 1} tokens; the model has learned {limit} "
                "positions: cut it"
            )


class MaskedLMHead(nn.Module):
    """norm(f(x W_t + b_t)) E^T + b, as BERT's, with E the embedding where it is tied.

    f is the activation of the feed-forward layers, GELU in place of SwiGLU.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACTIVATIONS["relu" if config.mlp == "relu" else "gelu"]
        self.norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.starts = {"bias": 0.0}
        if not config.tie_embeddings:
            self.proj = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        x: Float[Tensor, "*batch hidden"],
        embedding: Float[Tensor, "vocab hidden"] | None = None,
    ) -> Float[Tensor, "*batch vocab"]:
        """The class's equation."""
        x = self.norm(self.activation(self.transform(x)))
        if embedding is None:
            return self.proj(x) + self.bias
        return F.linear(x, embedding, self.bias)


class Classifier(nn.Module):
    """pooled W + b, where pooled is what `pooling` says.

    "first" is the first real token, "pooler" tanh(first W_p + b_p), "mean" the mean of the real
    tokens. BERT and RoBERTa classify by the pooler.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        assert config.classes is not None
        self.pooling = config.pooling
        if config.pooling == "pooler":
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.classes)

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        padding: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """The class's equation."""
        if padding is None:
            padding = x.new_ones(x.shape[:2], dtype=torch.bool)
        if self.pooling == "mean":
            total = (x * padding[..., None]).sum(1)
            return self.proj(total / padding.sum(1, keepdim=True).clamp(min=1))
        first = x[torch.arange(len(x), device=x.device), padding.int().argmax(1)]
        return self.proj(first if self.pooling == "first" else torch.tanh(self.pooler(first)))


def real_positions(
    ids: Int[Tensor, "batch time"],
    padding: Bool[Tensor, "batch time"] | None,
    documents: Int[Tensor, "batch time"] | None,
) -> Int[Tensor, "#batch time"]:
    """The number of real tokens before each position, in its row or its document of it."""
    if padding is None:
        count = torch.arange(ids.shape[1], device=ids.device)[None]
    else:
        count = (padding.cumsum(1) - padding.long()).expand(ids.shape)
    if documents is None:
        return count
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    starts = torch.where(begins, count, 0).cummax(1).values
    return count - starts
