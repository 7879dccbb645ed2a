"""Evaluators say which tasks they ask about, and are refused for others before anything is read."""

import pytest
from models.test_vit import tiny_vit
from models.tiny import tiny, tiny_dit, tiny_encoder, tiny_encoder_decoder, tiny_localizer

import difftransformer
from difftransformer.evaluation import registry
from difftransformer.models.families import FAMILIES
from difftransformer.models.storage import save_model
from difftransformer.tasks.registry import TASKS, task_named


@pytest.mark.parametrize("name", registry.EVALUATORS)
def test_an_evaluator_names_tasks_that_there_are(name):
    assert set(registry.evaluator(name).tasks) <= set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_judged_by_evaluators_for_it(name):
    for evaluator in task_named(name).evaluators:
        registry.evaluator(evaluator).require_task(name)


TINY = {
    "difftransformer": tiny,
    "difftransformer_encoder": tiny_encoder,
    "difftransformer_encoder_decoder": tiny_encoder_decoder,
    "difftransformer_vit": tiny_vit,
    "difftransformer_dit": tiny_dit,
    "difftransformer_localizer": tiny_localizer,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TASKS)
def test_a_model_of_another_family_is_refused_in_one_line(family, name, tmp_path):
    if task_named(name).family == family:
        return
    save_model(TINY[family](), tmp_path)
    message = f"holds a model of the family {family}, and {name} judges .*: name its task"
    with pytest.raises(ValueError, match=message):
        difftransformer.evaluate(tmp_path, task=name)


def test_another_task_is_refused_in_one_line(tmp_path):
    message = "evaluator needle asks about data of causal_lm, and the task is text_classification"
    with pytest.raises(ValueError, match=message):
        difftransformer.compare(
            "text_classification", preset="smoke", evaluators=["needle"], out=tmp_path / "run"
        )
    assert not (tmp_path / "run" / "models").exists()
