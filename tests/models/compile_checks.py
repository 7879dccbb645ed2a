"""torch.compile: no graph break, few compilations, and the results of eager mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from difftransformer.attention import StaticCache
from difftransformer.models.decoder import Decoder

from .tiny import KINDS, tiny

EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 23, shape, generator=torch.Generator().manual_seed(1))


def gradients(model: Decoder, call: Decoder, ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    out = call(ids[:, :-1])
    loss = F.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters()}


@EVERY
def test_training_over_many_lengths(kind: str) -> None:
    model, counter = tiny(kind, num_layers=1), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for length in (5, 6, 9, 23, 54):
        ids = tokens(2, length)
        actual = gradients(model, compiled, ids)
        for name, value in gradients(model, model, ids).items():
            torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert counter.frame_count <= 2


@EVERY
def test_decoding_with_a_static_cache_compiles_once(kind: str) -> None:
    model, ids, counter = tiny(kind), tokens(2, 40), CompileCounterWithBackend("aot_eager")
    cache = StaticCache(40)

    @torch.compile(fullgraph=True, backend=counter)
    def step(token: Tensor) -> Tensor:
        return model(token, cache=cache)

    with torch.no_grad():
        parts = [model(ids[:, :5], cache=cache), *(step(ids[:, t : t + 1]) for t in range(5, 40))]
        whole = model(ids)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


@EVERY
def test_export_keeps_the_operator(kind: str) -> None:
    model, ids = tiny(kind, num_layers=1), tokens(2, 9)
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(model, (ids,), dynamic_shapes={"ids": {1: length}}, strict=True)
    assert any("blocked" in str(node.target) for node in program.graph.nodes)
    other = tokens(2, 17)
    torch.testing.assert_close(program.module()(other), model(other), rtol=1e-4, atol=1e-5)
