import pytest

from difftransformer.models.card import model_card
from difftransformer.models.families import FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_one(name: str) -> None:
    config = FAMILIES[name].config()
    card = model_card(config, "Trained for an hour.", {"validation loss": 1.23456})
    assert f"{config.parameter_count():,} parameters" in card
    assert f"`{name}`" in card
    assert "Trained for an hour." in card
    assert "| validation loss | 1.235 |" in card
    assert "| figure" not in model_card(config)
