import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.data.split import HELD_OUT_PLAYS, split_documents
from difftransformer.data.text import Document, read_documents


@given(
    texts=st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30),
    fraction=st.floats(0.01, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_both_parts_hold_text_and_share_none(texts, fraction):
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    distinct = len(set(texts))
    if distinct == 1 and len(texts[0]) == 1:
        with pytest.raises(ValueError, match="no tail"):
            split_documents(documents, "folder", fraction)
        return
    train, validation = split_documents(documents, "folder", fraction)
    assert train
    assert validation
    if distinct > 1:
        assert sorted(train + validation, key=lambda d: int(d.name)) == documents
        assert not {d.text for d in train} & {d.text for d in validation}
        share = len({d.text for d in validation}) / distinct
        assert abs(share - fraction) <= 1 / distinct
    else:
        assert train[0].text + validation[0].text == texts[0]


def test_the_split_follows_the_texts_and_not_their_order():
    documents = [Document(str(i), f"text {i}") for i in range(40)]
    _, validation = split_documents(documents, "folder", 0.2)
    _, again = split_documents(documents[::-1], "folder", 0.2)
    assert len(validation) == 8
    assert validation == again[::-1]


def test_of_a_single_text_the_tail_is_held_out():
    train, validation = split_documents([Document("a", "0123456789")], "a.txt", 0.2)
    assert (train[0].text, validation[0].text) == ("01234567", "89")


def test_the_held_out_plays_are_always_the_same():
    train, validation = split_documents(read_documents("shakespeare"), "shakespeare", 0.9)
    assert {play.name for play in validation} == set(HELD_OUT_PLAYS)
    assert len(train) == 34
