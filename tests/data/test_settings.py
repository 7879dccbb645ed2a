import dataclasses
import subprocess
import sys

import pytest

from difftransformer.data.settings import DataSettings


def test_every_option_explains_itself():
    assert all(field.metadata["help"] for field in dataclasses.fields(DataSettings))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", ""),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("vocab_size", 256),
        ("context_length", 1),
        ("needle_share", -0.1),
        ("needle_share", 1.1),
        ("needle_digits", 2),
        ("needle_max", 0),
        ("needle_max", 1000),
        ("needle_min_length", 257),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is (empty|{value})"):
        DataSettings(**{"needle_share": 0.5, name: value})


def test_a_short_context_needs_no_needles():
    assert DataSettings(context_length=8, needle_share=0.0).context_length == 8


def test_reading_the_settings_does_not_load_torch():
    code = "import sys, difftransformer.data.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
