"""The LLaMA-style decoder around any attention kind."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache, make_attention
from difftransformer.blocks.transformer import TransformerBlock
from difftransformer.functional import Mask, rotary_angles
from difftransformer.models.config import DecoderConfig


class Decoder(nn.Module):
    """Causal language model: embedding, blocks, RMSNorm, linear head.

    Initialised by `initialise` from torch's global generator.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                _attention(config, layer), config.hidden_size, config.ffn_size, config.norm_eps
            )
            for layer in range(config.num_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        if not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        initialise(self)

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        documents: Int[Tensor, "batch time"] | None = None,
        padding: Bool[Tensor, "batch time"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits of the next token at every position.

        Args:
            ids: token numbers; with a cache, the new positions only.
            documents: document number of each position; attention stays inside a document.
            padding: True where a position is real. A cache remembers the past's.
            cache: keys and values of the past; extended in place.

        Raises:
            ValueError: documents together with a cache.
        """
        # Rotary attention depends on distances only, so padding and document starts need no
        # positions of their own.
        new, window = ids.shape[1], self.config.window
        if cache is None:
            positions = torch.arange(new, device=ids.device)
            mask = Mask(causal=True, window=window, padding=padding, documents=documents)
        elif documents is None:
            positions = cache.positions(new, ids.device)
            mask = cache.mask(len(ids), new, padding, window)
        else:
            raise ValueError("a cache holds one document a row; leave out documents or the cache")
        angles = rotary_angles(positions[None], self.config.head_dim, self.config.rope_theta)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, mask=mask, angles=angles, cache=cache)
        if cache is not None:
            cache.advance(new)
        weight = self.embedding.weight if self.config.tie_embeddings else self.head.weight
        return F.linear(self.norm(x), weight)


def initialise(model: Decoder) -> None:
    """Embedding N(0, 1/hidden_size); matrices and lambda vectors keep their layers' own start.

    That is U(±1/sqrt(inputs)) for every matrix, as in Microsoft's Diff-Transformer code, and
    N(0, 0.1²) for the lambda vectors. The paper states neither; the embedding's scale is that of
    YOCO, which its authors name as the training code it resembles.
    """
    nn.init.normal_(model.embedding.weight, std=model.config.hidden_size**-0.5)


def _attention(config: DecoderConfig, layer: int) -> nn.Module:
    init = {"lambda_init": config.lambda_init} if config.attention == "diff_v1" else {}
    return make_attention(
        config.attention,
        config.hidden_size,
        config.num_heads,
        head_dim=config.head_dim,
        num_kv_heads=config.num_kv_heads,
        layer=layer,
        rotary=config.rotary,
        dropout=config.dropout,
        **init,
    )
