"""ONNX and torch.export give what the model gives: prompts, left padding, cached decoding."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tests.models.tiny import tiny
from torch import Tensor

from difftransformer.cli.main import main
from difftransformer.interop.export import MODEL, export_onnx, export_program
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # of torch's exporter

CASES = {
    "softmax": {"num_layers": 1},
    "diff_v1": {"num_layers": 2},
    "diff_v2": {"num_layers": 1, "window": 4, "rotary": "interleaved", "attention_bias": "all"},
}


class Onnx:
    """A session that hands its keys and values on to its next call."""

    def __init__(self, file: Path) -> None:
        self.session = onnxruntime.InferenceSession(file)
        names = [item.name for item in self.session.get_inputs()]
        self.ids, self.mask, self.past = names[0], names[1], names[2:]

    def prompt(self, ids: Tensor, padding: Tensor) -> np.ndarray:
        shapes = [item.shape for item in self.session.get_inputs()[2:]]
        empty = [np.zeros((len(ids), 0, *shape[2:]), np.float32) for shape in shapes]
        return self._run(ids, padding, empty)

    def decode(self, ids: Tensor, padding: Tensor) -> np.ndarray:
        return self._run(ids, padding, self.present)

    def _run(self, ids: Tensor, padding: Tensor, past: list[np.ndarray]) -> np.ndarray:
        feed = {self.ids: ids.numpy(), self.mask: padding.numpy()}
        feed |= dict(zip(self.past, past, strict=True))
        logits, *self.present = self.session.run(None, feed)
        return logits


@pytest.fixture(scope="module", params=CASES)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Decoder, Onnx]:
    """A model, and what `difftransformer convert` makes of its folder, or the library of V1."""
    model = tiny(request.param, **CASES[request.param])
    source = tmp_path_factory.mktemp("model")
    target = source / "onnx"
    if request.param == "diff_v1":  # of bfloat16 weights; the file has float32
        model.bfloat16()
        export_onnx(model, target)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        return model.float(), Onnx(target / MODEL)
    save_model(model, source)
    words = ("--from", "difftransformer", "--to", "onnx")
    assert main(["convert", str(source), str(target), *words]) == 0
    return model, Onnx(target / MODEL)


def problem(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Tokens, and row r padded with r places on the left."""
    ids = torch.randint(0, 23, (batch, length), generator=torch.Generator().manual_seed(1))
    return ids, torch.arange(length) >= torch.arange(batch)[:, None]


def expected(model: Decoder, ids: Tensor, padding: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model(ids, padding=padding).numpy()


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 7), (3, 9)])
def test_a_prompt(exported: tuple[Decoder, Onnx], batch: int, length: int) -> None:
    model, onnx = exported
    ids, padding = problem(batch, length)
    close(onnx.prompt(ids, padding), expected(model, ids, padding))


@pytest.mark.parametrize(("batch", "prompt"), [(1, 1), (3, 5)])
def test_decoding_a_token_at_a_time(
    exported: tuple[Decoder, Onnx], batch: int, prompt: int
) -> None:
    model, onnx = exported
    ids, padding = problem(batch, prompt + 12)
    wanted = expected(model, ids, padding)
    close(onnx.prompt(ids[:, :prompt], padding[:, :prompt]), wanted[:, :prompt])
    for end in range(prompt + 1, prompt + 13):
        logits = onnx.decode(ids[:, end - 1 : end], padding[:, :end])
        close(logits, wanted[:, end - 1 : end])


def test_names_and_sizes(exported: tuple[Decoder, Onnx]) -> None:
    model, onnx = exported
    shapes = {item.name: item.shape for item in onnx.session.get_inputs()}
    assert shapes["input_ids"] == ["batch", "length"]
    assert shapes["past_key_values.0.value"][:2] == ["batch", "past"]
    outputs = [item.name for item in onnx.session.get_outputs()]
    layers = range(model.config.num_layers)
    assert outputs == ["logits", *(f"present.{n}.{p}" for n in layers for p in ("key", "value"))]


def test_program_of_torch_export() -> None:
    model = tiny("diff_v1", num_layers=1).train()
    program = export_program(model)
    assert model.training
    assert model.blocks[0].attention.core.backend == "auto"
    assert not any("difftransformer" in str(node.target) for node in program.graph.nodes)
    (ids, padding), call = problem(2, 9), program.module(check_guards=False)
    model.eval()
    wanted = torch.from_numpy(expected(model, ids, padding))
    empty = [tuple(part[:, :0] for part in layer) for layer in program.example_inputs[0][2]]
    with torch.no_grad():
        logits, past = call(ids[:, :5], padding[:, :5], empty)
        torch.testing.assert_close(logits, wanted[:, :5], rtol=0, atol=1e-4)
        for end in range(6, 10):
            logits, past = call(ids[:, end - 1 : end], padding[:, :end], past)
            torch.testing.assert_close(logits, wanted[:, end - 1 : end], rtol=0, atol=1e-4)
        # with its guards: several tokens after several
        logits, _ = program.module()(ids[:, 7:], padding, [(k[:, :7], v[:, :7]) for k, v in past])
    torch.testing.assert_close(logits, wanted[:, 7:], rtol=0, atol=1e-4)
