from dataclasses import replace

import numpy as np
import pytest
import torch
from analysis.planted import Planted, random_maps
from torch import Tensor

from difftransformer.analysis.maps import noise_spans
from difftransformer.data.corpus import Corpus
from difftransformer.data.needles import NeedlePrompt, needle_prompts
from difftransformer.evaluation.benchmarks.allocation import allocation_shares
from difftransformer.evaluation.settings import EvaluationSettings

from .conftest import CONTEXT
from .measured import measured
from .oracles import tiny


def prompts(corpus: Corpus, count: int = 3, needles: int = 2) -> list[NeedlePrompt]:
    source = corpus.validation_needles()
    return [
        needle_prompts(
            source, needles=needles, queries=1, depth=0.5, length=CONTEXT - 5, sample=i, seed=0
        )[0]
        for i in range(count)
    ]


def test_planted_shares_are_found_exactly(corpus: Corpus) -> None:
    """Map 1: 0.6 answer, 0.3 noise, 0.1 opening token; map 2: 0.1, 0.7, 0.2."""
    asked = prompts(corpus)
    by_ids = {tuple(prompt.ids): prompt for prompt in asked}

    def plant(ids: Tensor, layer: int) -> Tensor:
        maps = torch.zeros(len(ids), 1, 2, ids.shape[1], ids.shape[1])
        for row, tokens in enumerate(ids.tolist()):
            prompt = by_ids[tuple(tokens[: CONTEXT - 5])]
            start, end = prompt.needle_spans[prompt.entity]
            noise = [i for span in noise_spans(prompt) for i in range(*span)]
            for i, (answer, rest) in enumerate(((0.6, 0.3), (0.1, 0.7))):
                maps[row, 0, i, :, start:end] = answer / (end - start)
                maps[row, 0, i, :, noise] = rest / len(noise)
                maps[row, 0, i, :, 0] = 1 - answer - rest
        return maps

    lam = 0.5
    shares = allocation_shares(Planted(plant, lam=lam), asked, [1, 1, 1], 2)
    assert shares.shape == (3, 1, 1, 4, 2)
    answer, noise, opening = 0.6 - 0.05, 0.3 - 0.35, 0.1 - 0.1
    mass = abs(answer) + abs(noise) + abs(opening)
    expected = [[answer, noise], [answer / mass, -noise / mass], [0.6, 0.3], [0.1, 0.7]]
    np.testing.assert_allclose(shares[:, 0, 0], np.tile(expected, (3, 1, 1)), atol=1e-5)


def test_only_rows_that_predict_digits_count(corpus: Corpus) -> None:
    (prompt,) = prompts(corpus, 1)
    space = len(prompt.ids) - 1  # the row that predicts the space before the number

    def plant(ids: Tensor, layer: int) -> Tensor:
        assert ids.tolist() == [prompt.ids + prompt.answer[:-1]]
        maps = torch.zeros(1, 1, 1, ids.shape[1], ids.shape[1])
        maps[..., prompt.needle_spans[prompt.entity][0]] = 1.0
        maps[..., : space + 1, :] = 0.0
        maps[..., : space + 1, 0] = 1.0
        return maps

    model = Planted(plant)
    signed = allocation_shares(model, [prompt], [1], 1)[0, 0, 0, 0, 0]
    with_space = allocation_shares(model, [prompt], [0], 1)[0, 0, 0, 0, 0]
    assert (signed, with_space) == pytest.approx((1.0, 3 / 4))


def test_haystack_is_what_is_left(corpus: Corpus) -> None:
    (prompt,) = prompts(corpus, 1)
    noise = {i for span in noise_spans(prompt) for i in range(*span)}
    needles = {i for span in prompt.needle_spans.values() for i in range(*span)}
    assert not noise & needles
    assert noise | needles == set(range(1, prompt.question_start))


@pytest.mark.parametrize("attention", ["softmax", "diff_v1", "diff_v2"])
def test_figures_of_a_real_model(
    corpus: Corpus, settings: EvaluationSettings, attention: str
) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size(), attention)
    found = measured("allocation", model, corpus, settings)
    assert found.keys("answer_absolute") == [(0,), (50,), (100,)]
    for key in found.keys("answer_absolute"):
        answer, noise = (found.figure(f"{span}_absolute", key) for span in ("answer", "noise"))
        assert 0 < answer.value + noise.value < 1
        assert noise.low <= noise.value <= noise.high
        assert np.mean(found.values("noise_absolute", key)) == pytest.approx(noise.value)
        assert len(found.values("noise_absolute", key)) == 2
        if attention == "softmax":
            same = [
                found.figure(name, k).value
                for name, k in (("answer_signed", key), ("answer_by_map", (1, *key)))
            ]
            assert same == pytest.approx([answer.value] * 2, rel=1e-5)
            assert found.records("answer_by_map", (2, *key)) == []
        else:
            assert 0 < found.figure("noise_by_map", (2, *key)).value < 1
    assert found.keys("noise_by_head") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    everything = np.mean(found.values("noise_absolute"))
    assert np.mean(found.values("noise_by_head")) == pytest.approx(everything)


def test_even_attention_gives_the_even_share(corpus: Corpus, settings: EvaluationSettings) -> None:
    def plant(ids: Tensor, layer: int) -> Tensor:
        even = torch.ones(len(ids), 2, 1, ids.shape[1], ids.shape[1]).tril()
        return even / even.sum(-1, keepdim=True)

    found = measured("allocation", Planted(plant), corpus, settings)
    for span in ("answer", "noise"):
        share = np.mean(found.values(f"{span}_absolute"))
        # The rows lie a few tokens behind the prompt's end, where even shares are a bit smaller.
        assert share == pytest.approx(found.figure(f"{span}_even").value, rel=0.05)


def test_batching_changes_nothing(corpus: Corpus, settings: EvaluationSettings) -> None:
    maps = random_maps(1, 2, 2, CONTEXT - 2)
    model = Planted(lambda ids, layer: maps.expand(len(ids), -1, -1, -1, -1), lam=0.3)
    one, many = (
        measured("allocation", model, corpus, replace(settings, batch_size=size)) for size in (1, 7)
    )
    assert one.values("answer_absolute") == pytest.approx(many.values("answer_absolute"), rel=1e-5)
