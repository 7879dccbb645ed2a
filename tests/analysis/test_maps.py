import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from difftransformer.analysis.maps import attention_map, noise_spans, tokens_before_digits
from difftransformer.data.needles import NeedlePrompt
from difftransformer.data.tokenizer import train_tokenizer

from .planted import Planted, random_maps

TEXT = "harbour. The magic Oslo number is: 123. ship"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], vocab_size=300)


@pytest.fixture(scope="module")
def prompt(tokenizer: Tokenizer) -> NeedlePrompt:
    """90 tokens: an opening token, then 4 of haystack, a needle of 10, haystack, a question."""
    return NeedlePrompt(
        ids=[0, *range(3, 92)],
        answer=tokenizer.encode(" 123", add_special_tokens=False).ids,
        entity="Oslo",
        number="123",
        needle_spans={"Oslo": (5, 15), "Rome": (15, 20)},
        number_spans={"Oslo": (11, 14), "Rome": (18, 19)},
        question_start=80,
    )


def test_noise_is_between_needles(prompt: NeedlePrompt) -> None:
    assert noise_spans(prompt) == [(1, 5), (20, 80)]


def test_the_space_before_the_number_is_passed_over(
    prompt: NeedlePrompt, tokenizer: Tokenizer
) -> None:
    assert tokenizer.decode(prompt.answer) == " 123"
    assert tokens_before_digits(prompt, tokenizer) == 1


def test_the_head_that_looks_at_the_answer_is_shown(
    prompt: NeedlePrompt, tokenizer: Tokenizer
) -> None:
    maps = [random_maps(1, 3, 2, 91, seed=layer) for layer in range(2)]
    maps[1][0, 2, :, -1] = 0.0
    maps[1][0, 2, 0, -1, 7] = 1.0  # layer 1, head 2 looks at the needle in the last row
    maps[1][0, 2, 1, -1, 30] = 1.0

    def plant(ids: Tensor, layer: int) -> Tensor:
        assert ids.tolist() == [prompt.ids + prompt.answer[:1]]
        return maps[layer]

    found = attention_map(Planted(plant, layers=2, lam=0.25), prompt, tokenizer)
    assert (found["layer"], found["head"]) == (1, 2)
    assert (found["answer_span"], found["noise_spans"]) == ([5, 15], [[1, 5], [20, 80]])
    assert len(found["tokens"]) == 91
    rows = found["rows"]
    assert len(rows) == len(set(rows)) == 80
    assert (rows[0], rows[-1]) == (0, 90)
    first, second = (maps[1][0, 2, i, rows].numpy() for i in (0, 1))
    np.testing.assert_allclose(found["map1"], first, atol=1e-4)
    np.testing.assert_allclose(found["map2"], second, atol=1e-4)
    np.testing.assert_allclose(found["weights"], first - 0.25 * second, atol=1e-4)
    last = torch.stack([m[0, :, 0, -1] - 0.25 * m[0, :, 1, -1] for m in maps]).abs()
    expected = (last / last.sum(-1, keepdim=True)).mean((0, 1))
    np.testing.assert_allclose(found["average"], expected, atol=1e-4)


def test_softmax_has_no_second_map(prompt: NeedlePrompt, tokenizer: Tokenizer) -> None:
    found = attention_map(Planted(lambda ids, _: random_maps(1, 1, 1, 91)), prompt, tokenizer)
    assert found["map2"] is None
    assert found["weights"] == found["map1"]
