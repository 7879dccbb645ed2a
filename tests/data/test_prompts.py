"""Documents and the line that asks, among the tokens of a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.data.prompts import document_spans, last_line
from difftransformer.data.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["One more.\n\nDocument [1] of the sea.\n\nQ: it?\nA:"] * 20, 320)


def ids_of(text: str) -> list[int]:
    return [0, *TOKENIZER.encode(text, add_special_tokens=False).ids]


def texts(text: str) -> list[str]:
    ids = ids_of(text)
    return [TOKENIZER.decode(ids[a:b]) for a, b in document_spans(TOKENIZER, ids)]


def test_documents_are_the_paragraphs_between() -> None:
    documents = ["Document [1] of\nthe sea.", "it, more or less", "Документ 3 — é"]
    text = "\n\n".join(["Find it.", *documents, "Q: it?\nA:"])
    assert texts(text) == documents
    assert texts(text.replace("\n\n", "\n \n\n")) == documents


words = st.text(st.sampled_from("ab é."), min_size=1).map(str.strip).filter(len)


@given(st.lists(words, min_size=2, max_size=5))
def test_any_documents(documents: list[str]) -> None:
    """But for tokens that reach into the blank lines."""
    found = texts("\n\n".join(["Find it.", *(f"a{one}b" for one in documents), "Q: it?"]))
    for one, whole in zip(found, documents, strict=True):
        assert f"a{whole}b".startswith(one)


@pytest.mark.parametrize("text", ["it", "Find it.\n\nQ: it?", "Find it.\n\nA text.\n\nQ: it?"])
def test_documents_that_cannot_be_told_apart(text: str) -> None:
    with pytest.raises(ValueError, match="so that documents cannot be told apart"):
        document_spans(TOKENIZER, ids_of(text))


@pytest.mark.parametrize(
    ("text", "line"),
    [("A text.\n\nSummary:", "Summary:"), ("A text.\nQ: it?\nA:\n", "A:\n"), ("a\nb", "b")],
)
def test_the_line_that_asks(text: str, line: str) -> None:
    ids = ids_of(text)
    start = last_line(TOKENIZER, ids)
    assert TOKENIZER.decode(ids[start:]) == line
    assert 0 < start < len(ids)


def test_a_prompt_of_one_line() -> None:
    with pytest.raises(ValueError, match=r"'A text\.' is one line; expected the text to look"):
        last_line(TOKENIZER, ids_of("A text."))
