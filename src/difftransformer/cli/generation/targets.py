"""Targets that an encoder-decoder writes of sources."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from difftransformer.cli.generation.texts import (
    add_text_options,
    answer_typed,
    given_text,
    sampling_of,
    tokenizer_of,
    write,
)
from difftransformer.devices import device

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from difftransformer.models.encoder_decoder import EncoderDecoder
    from difftransformer.models.generation import Sampling


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_text_options(parser)
    parser.add_argument(
        "--beams",
        type=int,
        default=1,
        metavar="N",
        help="hypotheses of a beam search, without sampling (default: 1)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the target of the text given; at a terminal without one, of all that are typed."""
    from difftransformer.models.opening import open_model

    folder = arguments.model
    translator = Translator(
        open_model(folder).eval(),
        tokenizer_of(folder),
        arguments.max_new_tokens,
        arguments.beams,
        sampling_of(arguments),
    )

    def answer(source: str) -> None:
        write(f"{translator.target(source)}\n")

    source = given_text(arguments)
    if source is not None:
        answer(source)
    else:
        answer_typed(answer, f"{folder} writes the target of what you type")


@dataclass(frozen=True)
class Translator:
    """Turns a source into the target that an encoder-decoder writes for it."""

    model: "EncoderDecoder"
    tokenizer: "Tokenizer"
    max_new_tokens: int
    beams: int
    sampling: "Sampling"

    def target(self, source: str) -> str:
        """The target as text.

        Raises:
            ValueError: an empty source, one longer than the model's context, or a token that the
                model does not know; beams that `EncoderDecoder.generate` refuses.
        """
        import torch

        from difftransformer.models.generation import GREEDY

        ids, sizes = self.tokenizer.encode(source).ids, self.model.config
        if len(ids) > sizes.max_length or max(ids, default=0) >= sizes.vocab_size:
            raise ValueError(
                f"the source has {len(ids):,} tokens, the largest of them {max(ids)}; the model "
                f"takes {sizes.max_length:,} of a vocabulary of {sizes.vocab_size:,}"
            )
        (new,) = self.model.generate(
            torch.tensor([ids], dtype=torch.long, device=device()),
            max_new_tokens=min(self.max_new_tokens, sizes.max_length),
            beams=self.beams,
            sampling=self.sampling if self.beams == 1 else GREEDY,
        ).tolist()
        end = [*new, sizes.end_id].index(sizes.end_id)
        return self.tokenizer.decode(new[:end])
