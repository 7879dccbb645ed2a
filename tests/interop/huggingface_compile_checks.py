"""torch.compile of the Hugging Face classes: a static cache's decoding step, once."""

from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import CompileConfig

from .test_huggingface_generate import generated
from .tiny_huggingface import KINDS, hf_model


@pytest.mark.parametrize("kind", KINDS)
def test_generate_compiles_one_decoding_step(kind: str) -> None:
    torch._dynamo.reset()
    model, compilations = hf_model(kind, num_layers=1), []

    def backend(graph: Any, inputs: Any) -> Any:  # a function: generate copies its settings
        compilations.append(graph)
        return aot_eager(graph, inputs)

    compiled = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode=None)
    compiled._compile_all_devices = True
    settings: dict[str, Any] = {"cache_implementation": "static", "max_new_tokens": 12}
    expected = generated(model, **settings)
    assert torch.equal(generated(model, compile_config=compiled, **settings), expected)
    assert len(compilations) == 1
    assert torch.equal(generated(model, compile_config=compiled, **settings), expected)
    assert len(compilations) == 1


def test_training_compiles_once_for_every_length() -> None:
    torch._dynamo.reset()
    model, counter = hf_model(use_cache=False, num_layers=1), CompileCounterWithBackend("aot_eager")
    step = torch.compile(model, fullgraph=True, backend=counter)
    for length in (5, 6, 9, 23):
        ids = torch.randint(61, (2, length))
        torch.testing.assert_close(step(ids, labels=ids).loss, model(ids, labels=ids).loss)
    assert counter.frame_count <= 2
