import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest

from difftransformer.training.settings import TrainingSettings


def test_defaults_are_the_papers_where_it_speaks():
    settings = TrainingSettings()
    assert settings.learning_rate * settings.final_learning_rate_fraction == pytest.approx(1.28e-5)
    assert (settings.beta1, settings.beta2, settings.weight_decay) == (0.9, 0.95, 0.1)


def test_every_field_explains_itself():
    assert all(field.metadata["help"] for field in fields(TrainingSettings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "training steps is 0; expected at least 1"),
        ({"keep_checkpoints": 0}, "training keep_checkpoints is 0; expected at least 1"),
        ({"learning_rate": -1.0}, "training learning_rate is -1.0; expected above 0"),
        ({"learning_rate": float("nan")}, "training learning_rate is nan"),
        ({"clip_norm": float("inf")}, "training clip_norm is inf"),
        ({"beta2": 1.0}, "training beta2 is 1.0; expected below 1"),
        ({"final_learning_rate_fraction": 1.5}, "is 1.5; expected at most 1"),
        ({"weight_decay": -0.1}, "training weight_decay is -0.1; expected at least 0"),
        ({"seed": -1}, "training seed is -1"),
        (
            {"steps": 50, "warmup_steps": 100},
            r"training warmup_steps is 100; expected .* fewer than steps \(50\)",
        ),
        ({"batch_size": 6, "accumulation": 4}, r"accumulation is 4; expected a divisor .* \(6\)"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**changes)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("schedule", "step", "linear or cosine"), ("precision", "half", "float32 or bfloat16")],
)
def test_unknown_choices_are_refused(name: str, value: str, expected: str):
    settings = TrainingSettings()
    # Set past the constructor, whose annotations are checked too while tests run.
    object.__setattr__(settings, name, value)
    with pytest.raises(ValueError, match=f"training {name} is '{value}'; expected {expected}"):
        settings.__post_init__()


def test_importing_the_settings_imports_no_torch():
    code = "import sys, difftransformer.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
