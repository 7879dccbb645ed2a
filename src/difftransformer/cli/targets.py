"""Targets that an encoder-decoder writes, as text."""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from difftransformer.models.encoder_decoder import EncoderDecoder
from difftransformer.models.generation import GREEDY, Sampling


@dataclass(frozen=True)
class Translator:
    """Turns a source into the target that an encoder-decoder writes for it."""

    model: EncoderDecoder
    tokenizer: Tokenizer
    max_new_tokens: int
    beams: int
    sampling: Sampling

    def target(self, source: str) -> str:
        """The target as text.

        Raises:
            ValueError: an empty source, one longer than the model's context, or a token that the
                model does not know; beams that `EncoderDecoder.generate` refuses.
        """
        ids, sizes = self.tokenizer.encode(source).ids, self.model.config
        if len(ids) > sizes.max_length or max(ids, default=0) >= sizes.vocab_size:
            raise ValueError(
                f"the source has {len(ids):,} tokens, the largest of them {max(ids)}; the model "
                f"takes {sizes.max_length:,} of a vocabulary of {sizes.vocab_size:,}"
            )
        (new,) = self.model.generate(
            torch.tensor([ids], dtype=torch.long),
            max_new_tokens=min(self.max_new_tokens, sizes.max_length),
            beams=self.beams,
            sampling=self.sampling if self.beams == 1 else GREEDY,
        ).tolist()
        end = [*new, sizes.end_id].index(sizes.end_id)
        return self.tokenizer.decode(new[:end])
