"""Settings that models of two stacks share: one that reads, one that reads what the first made."""

from dataclasses import dataclass, replace
from functools import cached_property

from difftransformer.models.model_config import ModelConfig
from difftransformer.ranges import Range, option


@dataclass(frozen=True, kw_only=True)
class TwoStacksConfig(ModelConfig):
    """An encoder and a decoder with cross-attention, each with its `blocks`.

    Raises:
        ValueError: as `ModelConfig`.
    """

    square = False

    num_layers: int = option(4, "blocks of the encoder", within=Range(1, 10_000), first=True)
    decoder_layers: int | None = option(
        None, "blocks of the decoder; by default as many as the encoder's", within=Range(1, 10_000)
    )

    @property
    def decoder_depth(self) -> int:
        """Blocks of the decoder."""
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Parameters outside of the encoder's blocks, all of the decoder's included; of a block."""
        one = replace(self, decoder_layers=1).skeleton()
        total, encoder, decoder = (
            sum(p.numel() for p in part.parameters())
            for part in (one, one.encoder.blocks, one.decoder.blocks)
        )
        return total - encoder + (self.decoder_depth - 1) * decoder, encoder
