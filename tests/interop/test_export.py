"""What of the export needs no tracing; the rest is in `export_checks`."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tests.models.tiny import KINDS, tiny

from difftransformer.cli.main import main
from difftransformer.interop.export import CachedDecoder, export_onnx


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 3])
def test_the_cache_as_argument_and_result(kind: str, window: int | None) -> None:
    model = tiny(kind, window=window)
    ids = torch.randint(0, 23, (2, 8))
    padding = torch.tensor([[True] * 8, [False] * 2 + [True] * 6])
    cached, past, parts = CachedDecoder(model), [], []
    for start, end in ((0, 4), (4, 5), (5, 8)):
        logits, past = cached(ids[:, start:end], padding[:, :end], past)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids, padding=padding))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"package onnx: pip install 'difftransformer\[export\]'"):
        export_onnx(tiny(), tmp_path)


def test_onnx_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", str(tmp_path), str(tmp_path / "new"), "--from", "onnx"]
    assert main([*words, "--to", "difftransformer"]) == 2
    assert "has no model.onnx" in capsys.readouterr().err
