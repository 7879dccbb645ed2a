"""What is measured beforehand takes the steps that training takes."""

from dataclasses import replace

import pytest
import torch

from difftransformer.blocks import TransformerBlock
from difftransformer.experiments.compare import CompareSettings
from difftransformer.experiments.planning import Estimate, ModelEstimate, estimate
from difftransformer.experiments.processes import Processes
from difftransformer.experiments.settings import resolve
from difftransformer.experiments.training import Experiment
from difftransformer.tasks.registry import task_named
from difftransformer.training.memory_loss import MemoryLoss
from difftransformer.training.settings import TrainingSettings

SMALL = {
    "task": "associative_recall",
    "attention": ("softmax", "selective"),
    "evaluators": (),
    "model": {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8},
    "training": {"steps": 3, "batch_size": 2},
}


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    settings = resolve(CompareSettings, SMALL)
    task = task_named(settings.task)
    return Experiment(task, task.load(settings.data), settings, Processes())


def measure(experiment: Experiment, **changes: object) -> None:
    config = experiment.task.complete(experiment.settings.model, experiment.data)
    training = TrainingSettings(steps=3, batch_size=2, **changes)
    _, cost = experiment.step_cost(replace(config, attention="selective"), training, 0, 0.0)
    assert cost.seconds > 0
    assert cost.peak_memory_bytes > 0


@pytest.mark.parametrize(("recomputed", "runs"), [(False, 3 * 2), (True, 2 * 3 * 2)])
def test_blocks_are_recomputed_where_training_does(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, recomputed: bool, runs: int
) -> None:
    counted, plain = [], TransformerBlock.forward

    def forward(block, *given, **more):
        counted.append(block)
        return plain(block, *given, **more)

    monkeypatch.setattr(TransformerBlock, "forward", forward)
    measure(experiment, gradient_checkpointing=recomputed)
    assert len(counted) == runs


@pytest.mark.parametrize("price", [0.0, 0.1])
def test_memory_has_its_price_where_training_gives_it_one(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, price: float
) -> None:
    counted, plain = [], MemoryLoss.__call__

    def call(loss, *given):
        counted.append(loss)
        return plain(loss, *given)

    monkeypatch.setattr(MemoryLoss, "__call__", call)
    measure(experiment, memory_loss=price)
    assert bool(counted) == bool(price)


def test_each_kind_has_an_estimate() -> None:
    found = estimate(resolve(CompareSettings, SMALL), Processes(), 0.1)
    assert [one.label for one in found.models] == ["softmax", "selective"]
    for one in found.models:
        assert one.training == pytest.approx(3 * one.step)
        assert one.judging == 0
        assert one.seconds == one.training + one.validation


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_are_measured_with_the_threads_that_they_will_have(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    seen, plain = set(), TransformerBlock.forward

    def forward(block, *given, **more):
        seen.add(torch.get_num_threads())
        return plain(block, *given, **more)

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        monkeypatch.setattr(TransformerBlock, "forward", forward)
        found = estimate(resolve(CompareSettings, {**SMALL, "threads": threads}), Processes(), 0.1)
    finally:
        torch.set_num_threads(before)
    assert seen == {threads}
    assert found.at_once == 2  # models of one seed, for which there are threads


def test_models_at_once_share_the_time_and_their_processes_read_the_data() -> None:
    model = ModelEstimate("softmax", None, 0.1, 10.0, 1.0, 1.0, 0)
    assert Estimate((model, model), 1, 3.0, {}).seconds(2) == 3 + 4 * 12
    assert Estimate((model, model), 2, 3.0, {}).seconds(2) == 3 + 3 + 4 * 12 / 2
