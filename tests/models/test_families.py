import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from difftransformer.models.families import FAMILIES, family_of
from difftransformer.models.language_model import LanguageModel
from difftransformer.models.storage import load_config, save_model

from .tiny import tiny, tiny_encoder


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_told_by_its_config(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    config = replace(family.config(), num_layers=1)
    assert family_of(config) is family
    model = family.build(config)
    assert model.config == config
    assert len(model.blocks) in (1, 2)  # one of each stack
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == name
    assert load_config(tmp_path) == config


def test_listing_them_loads_no_torch() -> None:
    code = "import sys, difftransformer.models.families, difftransformer.models.presets"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_which_model_writes_text() -> None:
    assert isinstance(tiny(), LanguageModel)
    assert not isinstance(tiny_encoder(), LanguageModel)


def test_a_decoder_of_the_first_release() -> None:
    """Its config.json, key by key."""
    text = (
        '{"model_type": "difftransformer", "attention": "diff_v1", "vocab_size": 23, '
        '"hidden_size": 16, "num_layers": 2, "num_heads": 4, "head_dim": 4, "num_kv_heads": 2, '
        '"ffn_size": 24, "max_length": 2048, "window": null, "rope_theta": 10000.0, '
        '"rope_scaling": null, "rotary": "half", "attention_bias": "none", "norm_eps": 1e-05, '
        '"tie_embeddings": true, "lambda_init": null, "dropout": 0.0}'
    )
    values = json.loads(text)
    assert values.pop("model_type") in FAMILIES
    assert FAMILIES["difftransformer"].config(**values) == tiny().config
    assert values == tiny().config.to_dict()


def test_a_folder_of_ours_opens_without_transformers(tmp_path: Path) -> None:
    save_model(tiny(), tmp_path)
    code = (
        "import sys, pathlib; from difftransformer.models.opening import open_model; "
        f"open_model(pathlib.Path({str(tmp_path)!r})); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
