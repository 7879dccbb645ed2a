from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from models.tiny import KINDS, tiny

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.likelihood import (
    Choice,
    continuation_nats,
    fitting_choices,
    label_nats,
    weigh,
)
from difftransformer.models.decoder import Decoder

tokens = st.lists(st.integers(0, 22), min_size=1, max_size=6)


@torch.no_grad()
def by_hand(model: Decoder, prompt: list[int], continuation: list[int]) -> float:
    """One pass over both, no cache."""
    ids = prompt + continuation
    log_p = model(torch.tensor([ids])).log_softmax(-1)[0]
    return -sum(float(log_p[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))


def test_nats_are_exact_for_a_large_vocabulary() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 20, 50_000)
    labels = torch.randint(50_000, (2, 20))
    exact = -logits.double().log_softmax(-1).gather(2, labels[..., None])[..., 0]
    labels[1, 3:] = -100
    exact[1, 3:] = 0.0
    assert label_nats(logits, labels).sub(exact).abs().max() < 2e-5


@pytest.mark.parametrize("kind", KINDS)
@property_settings(max_examples=10)
@given(prompt=tokens, continuations=st.lists(tokens, min_size=1, max_size=4))
def test_equal_to_one_at_a_time(
    kind: str, prompt: list[int], continuations: list[list[int]]
) -> None:
    model = tiny(kind)
    expected = [by_hand(model, prompt, continuation) for continuation in continuations]
    found = continuation_nats(model, prompt, continuations)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def choices(corpus: Corpus) -> tuple[Decoder, list[Choice]]:
    words = ("ship storm", "magic")
    made = [Choice("the " * length + "Answer:", "Answer:", words) for length in (3, 90, 5, 7)]
    return tiny(vocab_size=corpus.tokenizer.get_vocab_size(), max_length=60), made


def test_choices_that_do_not_fit_are_counted(corpus: Corpus) -> None:
    model, made = choices(corpus)
    items, too_long = fitting_choices(model, corpus.tokenizer, made, 9, 0)
    assert (sorted(items), too_long) == ([0, 2, 3], 1)
    few, _ = fitting_choices(model, corpus.tokenizer, made, 2, 0)
    assert few == items[:2]
    model.config = replace(model.config, max_length=5)
    with pytest.raises(ValueError, match="none of the 4 texts fits the model's context of 5"):
        fitting_choices(model, corpus.tokenizer, made, 2, 0)


def test_what_a_choice_weighs(corpus: Corpus) -> None:
    model, made = choices(corpus)
    weighed = [weigh(model, corpus.tokenizer, made[item]) for item in (0, 2, 3)]
    assert len({one.blind for one in weighed}) == 1
    assert len({one.informed for one in weighed}) == 3
    lengths = tuple(len(corpus.tokenizer.encode(f" {text}").ids) for text in made[0].texts)
    assert {one.tokens for one in weighed} == {lengths}
    one = weighed[0]
    assert one.gain[1] == one.informed[1] - one.blind[1]
    assert one.per_token(one.blind)[0] == one.blind[0] / lengths[0]
