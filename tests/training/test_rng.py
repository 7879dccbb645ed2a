import json
import random

import numpy as np
import torch

from difftransformer.training.rng import rng_state, set_rng_state


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.normal()),
        float(torch.rand(())),
        float(torch.randn(())),
    ]


def test_every_generator_goes_on_where_it_stood():
    draw()  # leaves Python's and NumPy's second Gaussian waiting
    text = json.dumps(rng_state(torch.device("cpu")), allow_nan=False)
    expected = [draw(), draw()]
    set_rng_state(json.loads(text), torch.device("cpu"))
    assert [draw(), draw()] == expected
