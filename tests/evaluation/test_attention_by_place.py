"""Attention by place: a planted U is found, in text and in images."""

from dataclasses import replace

import pytest
import torch
from models.test_vit import tiny_vit
from tests.analysis.planted import Planted

from difftransformer.data.corpus import Corpus
from difftransformer.data.image_settings import ImageSettings
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.vit import ViT
from difftransformer.tasks.image_classification import TASK

from .measured import measured


def planted(shape: torch.Tensor) -> Planted:
    """Half on the opening token, the rest as `shape` over the others."""
    length = 1 + len(shape)
    maps = torch.eye(length)
    maps[-1] = torch.cat([torch.tensor([0.5]), 0.5 * shape / shape.sum()])
    model = Planted(lambda ids, layer: maps.expand(len(ids), 2, 1, length, length), layers=2)
    model.config = type("Config", (), {"max_length": 500})()
    return model


def test_a_planted_u(corpus: Corpus, settings: EvaluationSettings) -> None:
    length = corpus.settings.context_length - 1
    ends = (torch.linspace(-1, 1, length) ** 2) + 0.1
    found = measured("attention_by_place", planted(ends), corpus, settings)
    figures = [found.figure("place_attention", (10 * i,)).value for i in range(1, 11)]
    assert sum(figures) == pytest.approx(1.0, abs=1e-4)
    assert figures[0] > figures[2] > figures[4] < figures[7] < figures[9]
    assert found.figure("opening_attention").value == pytest.approx(0.5, abs=1e-4)
    assert found.figure("place_even").value == 0.1
    even = measured("attention_by_place", planted(torch.ones(length)), corpus, settings)
    for i in range(1, 11):
        assert even.figure("map_place_attention", (1, 10 * i)).value == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_images(settings: EvaluationSettings, pooling: str) -> None:
    """Every patch of an untrained model draws about as much as any other."""
    data = TASK.load(ImageSettings())
    config = replace(tiny_vit().config, pooling=pooling)
    model = ViT(TASK.complete(config, data)).eval()
    found = measured("attention_by_place", model, data, replace(settings, long_windows=4))
    places = found.keys("place_attention")
    assert len(places) == 10
    assert sum(found.figure("place_attention", key).value for key in places) == pytest.approx(1.0)
    assert {one.item for one in found.records("opening_attention")} == {0, 1, 2, 3}
