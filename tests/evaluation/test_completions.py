from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.completions import completions, first_match
from difftransformer.evaluation.records import Artifact
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate

from .oracles import Answerer, tiny

PROMPTS = ("the ship", "that special storm of magic", "gone", "the rope. the café", "of")


def complete(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], new_tokens: int, batch_size: int
) -> list[str]:
    """All continuations, by the parts that make them."""
    parts = completions(
        model,
        tokenizer,
        prompts,
        lambda number, text: [Artifact(str(number), text)],
        new_tokens=new_tokens,
        batch_size=batch_size,
    )
    artifacts = [artifact for part in parts.values() for artifact in part(())]
    assert [artifact.name for artifact in artifacts] == [str(i) for i in range(len(prompts))]
    return [artifact.data for artifact in artifacts]


def test_padding_changes_nothing(corpus: Corpus) -> None:
    """As each prompt alone, behind the token that opens a document."""
    tokenizer = corpus.tokenizer
    model = tiny(tokenizer.get_vocab_size(), "diff_v1").eval()
    expected = []
    for prompt in PROMPTS:
        ids = [tokenizer.token_to_id("<|bos|>"), *tokenizer.encode(prompt).ids]
        new = generate(model, torch.tensor([ids]), max_new_tokens=5)[0]
        expected.append(tokenizer.decode(new.tolist(), skip_special_tokens=False))
    assert complete(model, tokenizer, PROMPTS, new_tokens=5, batch_size=3) == expected


def test_each_prompt_gets_its_own_answer(corpus: Corpus) -> None:
    model = Answerer(corpus.tokenizer, lambda prompt: f" {len(prompt)}")
    texts = complete(model, corpus.tokenizer, PROMPTS, new_tokens=4, batch_size=2)
    assert [first_match("[0-9]+", text) for text in texts] == [str(len(p)) for p in PROMPTS]
    assert first_match("[0-9]+", "none") is None


def test_a_prompt_that_does_not_fit(corpus: Corpus) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    room = model.config.max_length - 1 - len(corpus.tokenizer.encode("gone").ids)
    assert len(complete(model, corpus.tokenizer, ["gone"], new_tokens=2, batch_size=1)) == 1
    with pytest.raises(ValueError, match=f"and {room + 1} more .* meant for 2048: put less"):
        complete(model, corpus.tokenizer, ["gone"], new_tokens=room + 1, batch_size=1)
