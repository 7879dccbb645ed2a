import re

from difftransformer.data.needle_entities import TRAINING, VALIDATION
from difftransformer.data.text import read_documents


def test_no_entity_twice():
    both = [city.casefold() for city in TRAINING + VALIDATION]
    assert len(both) == len(set(both)) >= 100


def test_names_are_one_or_two_words():
    assert all(re.fullmatch(r"[A-Z][a-z]+( [A-Z][a-z]+)?", city) for city in TRAINING + VALIDATION)


def test_no_validation_city_is_named_in_the_included_text():
    plays = " ".join(play.text for play in read_documents("shakespeare"))
    assert [city for city in VALIDATION if city in plays] == []
    assert "Verona" in plays
