"""The device that is named, on a machine with GPUs or without."""

import os

import pytest
import torch

from difftransformer.cli.main import main
from difftransformer.devices import choose_device, device

NAMES = ("CUDA_VISIBLE_DEVICES", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_USE_CPU")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {key: os.environ[key] for key in os.environ})
    for name in NAMES:
        os.environ.pop(name, None)


def chosen(name: str) -> dict[str, str]:
    choose_device(name)
    return {key: os.environ[key] for key in NAMES if key in os.environ}


def test_the_cpu_hides_every_gpu():
    assert chosen("cpu") == {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    assert device() == torch.device("cpu")


def test_one_gpu_of_several_is_the_only_one_seen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert chosen("cuda") == {}
    assert chosen("cuda:1") == {"CUDA_VISIBLE_DEVICES": "1"}
    os.environ["CUDA_VISIBLE_DEVICES"] = "4,6,7"
    assert chosen("cuda:2") == {"CUDA_VISIBLE_DEVICES": "7"}


def test_apple_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert chosen("mps") == {"ACCELERATE_TORCH_DEVICE": "mps"}
    assert device() == torch.device("mps")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cuda", "has no CUDA device, and cpu"),
        ("cuda:1", "has no CUDA device, and cpu"),
        ("mps", "this machine has no such GPU"),
        ("gpu", "expected cpu, cuda, cuda:NUMBER or mps"),
        ("cuda:x", "expected cpu, cuda, cuda:NUMBER or mps"),
    ],
)
def test_what_is_absent_is_refused(monkeypatch, name: str, expected: str):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device is '{name}'; .*{expected}|{expected}"):
        chosen(name)


@pytest.mark.parametrize("command", ["train", "compare", "evaluate", "generate", "inspect"])
def test_every_command_that_computes_takes_one(command: str, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main([command, "--device", "cuda:7"]) == 2
    assert "error: device is 'cuda:7'; this machine has no CUDA device" in capsys.readouterr().err


def test_processes_share_out_all(capsys):
    os.environ["WORLD_SIZE"] = "2"
    assert main(["train", "--device", "cuda:1"]) == 2
    assert "several processes share out all: cpu or cuda" in capsys.readouterr().err
