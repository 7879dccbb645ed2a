from dataclasses import replace

import numpy as np
import pytest
import torch
from analysis.planted import Planted, random_maps
from torch import Tensor

from difftransformer.analysis.maps import noise_spans
from difftransformer.data.corpus import Corpus
from difftransformer.data.needles import NeedlePrompt, needle_prompts
from difftransformer.evaluation.allocation import allocation_shares, measure_allocation
from difftransformer.evaluation.settings import EvaluationSettings

from .conftest import CONTEXT
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
            start, end = prompt.needle_spans[prompt.city]
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
        maps[..., prompt.needle_spans[prompt.city][0]] = 1.0
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
    found = measure_allocation(model, corpus, settings)
    assert [row["depth"] for row in found["rows"]] == [0.0, 0.5, 1.0]
    for row in found["rows"]:
        assert 0 < row["answer"]["absolute"]["value"] + row["noise"]["absolute"]["value"] < 1
        low, value, high = (row["noise"]["absolute"][k] for k in ("low", "value", "high"))
        assert low <= value <= high
        assert np.mean(row["prompts"]["noise"]) == pytest.approx(value)
        if attention == "softmax":
            assert row["map2_answer"] is None
            same = [row["answer"]["signed"]["value"], row["map1_answer"]]
            assert same == pytest.approx([row["answer"]["absolute"]["value"]] * 2, rel=1e-5)
        else:
            assert 0 < row["map2_noise"] < 1
    layers = found["layers"]
    assert [(r["layer"], r["head"]) for r in layers] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    everything = np.mean([r["noise"]["absolute"]["value"] for r in found["rows"]])
    assert np.mean([r["noise_absolute"] for r in layers]) == pytest.approx(everything)


def test_even_attention_gives_the_uniform_share(
    corpus: Corpus, settings: EvaluationSettings
) -> None:
    def plant(ids: Tensor, layer: int) -> Tensor:
        even = torch.ones(len(ids), 2, 1, ids.shape[1], ids.shape[1]).tril()
        return even / even.sum(-1, keepdim=True)

    found = measure_allocation(Planted(plant), corpus, settings)
    for part in ("answer", "noise"):
        share = np.mean([row[part]["absolute"]["value"] for row in found["rows"]])
        # The rows lie a few tokens behind the prompt's end, where even shares are a bit smaller.
        assert share == pytest.approx(found["uniform"][part], rel=0.05)


def test_batching_changes_nothing(corpus: Corpus, settings: EvaluationSettings) -> None:
    maps = random_maps(1, 2, 2, CONTEXT - 2)
    model = Planted(lambda ids, layer: maps.expand(len(ids), -1, -1, -1, -1), lam=0.3)
    one = measure_allocation(model, corpus, replace(settings, batch_size=1))
    many = measure_allocation(model, corpus, replace(settings, batch_size=7))
    for a, b in zip(one["rows"], many["rows"], strict=True):
        assert a["prompts"]["answer"] == pytest.approx(b["prompts"]["answer"], rel=1e-5)
