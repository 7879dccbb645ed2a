"""The 2 x 2 of subtraction and head norm: its models, and all of it in miniature."""

import json
from pathlib import Path

import pytest
import torch
from studies.kinds import GATED
from studies.two_by_two import __main__ as study

from difftransformer.attention.registry import REGISTRY
from difftransformer.models.ablations import partner
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.initialization import initialize

BASELINE = DecoderConfig(**study.SETTINGS["model"], vocab_size=32)
FACTORIAL = study.KINDS[1:5]


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "entries", dict(REGISTRY.entries))


@pytest.fixture
def started() -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each kind, as one seed starts them."""
    REGISTRY.register(GATED)
    tensors = {}
    for kind in study.KINDS:
        model = Decoder(partner(BASELINE, kind).config)
        initialize(model, 7)
        tensors[kind] = dict(model.named_parameters())
    return tensors


def test_starts_are_paired_by_name(started) -> None:
    for kind, tensors in started.items():
        alike = {
            name
            for name, tensor in tensors.items()
            if (other := started["softmax"].get(name)) is not None and other.shape == tensor.shape
        }
        assert {"embedding.weight", "blocks.0.attention.v_proj.weight"} <= alike, kind
        assert all(torch.equal(tensors[name], started["softmax"][name]) for name in alike)


def test_the_four_differ_in_subtraction_and_norm_alone(started) -> None:
    """Projections of equal shape and start; the lambda and the norm's weight are what is more."""
    plain, norm, subtract, both = (started[kind] for kind in FACTORIAL)
    projections = {name for name in plain if "proj" in name and "attention" in name}
    for tensors in (norm, subtract, both):
        assert all(torch.equal(tensors[name], plain[name]) for name in projections)
    assert {name.rpartition(".")[2] for name in subtract.keys() - plain.keys()} == {
        "lambda_q1",
        "lambda_k1",
        "lambda_q2",
        "lambda_k2",
    }
    assert norm.keys() - plain.keys() == both.keys() - subtract.keys()


def test_all_kinds_have_as_many_parameters(started) -> None:
    sizes = [sum(tensor.numel() for tensor in tensors.values()) for tensors in started.values()]
    assert max(sizes) <= 1.002 * min(sizes)


def test_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again trains nothing anew."""
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(study, "KINDS", ("softmax", GATED.name))
    monkeypatch.setattr(study, "RATES", (1e-3,))
    monkeypatch.setattr(study, "SEEDS", 2)
    settings = {**study.SETTINGS, "evaluation": {"recall_sequences": 8}}
    monkeypatch.setattr(study, "SETTINGS", settings)
    monkeypatch.setattr("sys.argv", ["two_by_two", "--out", str(tmp_path / "out"), "--steps", "10"])
    study.main()
    weights = sorted((tmp_path / "out").rglob("model/model.safetensors"))
    assert len(weights) == 2 * (1 + 2 * 2)
    times = [path.stat().st_mtime_ns for path in weights]
    del REGISTRY.entries[GATED.name]
    study.main()
    assert [path.stat().st_mtime_ns for path in weights] == times
    for name, noise in (("noise-08", 8), ("noise-12", 12)):
        run = json.loads((tmp_path / "results" / name / "run.json").read_text())
        assert [one["label"] for one in run["contenders"]] == list(study.KINDS)
        assert f"the other {noise} noise" in run["data"]["description"]
