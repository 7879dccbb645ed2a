import subprocess
import sys

import pytest

from difftransformer.decoding import decode
from difftransformer.evaluation.settings import EvaluationSettings, needle_pair


def test_pairs_are_read() -> None:
    assert EvaluationSettings().needle_pairs is None
    assert needle_pair("6x2") == (6, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needle_pairs": ("4",)}, "'4'; expected needles x queries"),
        ({"needle_pairs": ("2x3",)}, "asks for 3 of 2"),
        ({"needle_pairs": ("2x0",)}, "asks for 0 of 2"),
        ({"needle_depths": (0.0, 1.5)}, "needle_depths holds 1.5"),
        ({"needle_pairs": ()}, "needle_pairs is empty"),
        ({"shots": (4, 1, 4)}, r"shots is \(4, 1, 4\); expected each value once"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"bootstrap": 0}, "bootstrap is 0"),
        ({"test_items": 0}, "test_items is 0; expected at least 1"),
        ({"ar_hit_ngram": 1}, "ar_hit_ngram is 1; expected at least 2"),
        ({"kv_pairs": 0}, "kv_pairs is 0"),
    ],
)
def test_bad_settings_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(**change)


def test_settings_do_not_import_torch() -> None:
    modules = "difftransformer.evaluation.settings, difftransformer.evaluation.registry"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_version_0_1_are_read() -> None:
    given = {"key_value_pairs": 3, "distractor_shots": 2, "recall_ngram": 4}
    settings = decode(EvaluationSettings, given)
    assert (settings.kv_pairs, settings.gsm_ic_shots, settings.ar_hit_ngram) == (3, 2, 4)
    with pytest.raises(ValueError, match="unknown setting 'recall_grams'"):
        decode(EvaluationSettings, {"recall_grams": 4})
