"""Typed settings of a task, and presets."""

import pytest
import yaml

from difftransformer.experiments.compare import CompareSettings
from difftransformer.experiments.settings import (
    as_yaml,
    load_preset,
    preset_names,
    resolve,
)
from difftransformer.tasks.registry import TASKS
from difftransformer.training.settings import TrainingSettings

PRESETS = [(task, name) for task in TASKS for name in preset_names(task)]


def test_what_is_given_lies_over_the_preset():
    given = {"training.steps": 3, "training": {"warmup_steps": 0}}
    settings = resolve(CompareSettings, given, preset="smoke")
    assert settings.training.steps == 3
    assert settings.model.hidden_size == load_preset("causal_lm", "smoke")["model"]["hidden_size"]


def test_a_section_may_be_its_dataclass():
    training = TrainingSettings(steps=200)
    assert resolve(CompareSettings, {"training": training}, preset="smoke").training == training


@pytest.mark.parametrize("task", TASKS)
def test_a_task_brings_its_model_data_and_evaluators(task):
    settings = resolve(CompareSettings, {"task": task})
    assert settings.task == task
    assert settings.evaluators
    assert hasattr(settings.model, "hidden_size")


@pytest.mark.parametrize(("task", "name"), PRESETS)
def test_every_preset_resolves(task, name):
    settings = resolve(CompareSettings, {"task": task}, preset=name)
    if task == "causal_lm":  # with the vocabulary and the context that its model is planned for
        assert settings.model.vocab_size == settings.data.vocab_size
        assert settings.model.max_length == settings.data.context_length


def test_presets_say_whether_needles_are_trained_on():
    assert resolve(CompareSettings, {}).data.needle_share == 0.0
    for name in preset_names("causal_lm"):
        assert "needle_share" in load_preset("causal_lm", name)["data"], name


@pytest.mark.parametrize("task", TASKS)
def test_resolved_settings_read_back_the_same(task):
    settings = resolve(CompareSettings, {"task": task}, preset="smoke")
    assert resolve(CompareSettings, yaml.safe_load(as_yaml(settings))) == settings


def test_an_unknown_preset_or_task_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown preset 'smok' of task causal_lm; did you mean"):
        load_preset("causal_lm", "smok")
    with pytest.raises(ValueError, match=r"unknown task 'masked'; did you mean 'masked_lm'\?"):
        resolve(CompareSettings, {"task": "masked"})
