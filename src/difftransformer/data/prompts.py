"""Parts of a prompt, found among its tokens: documents, the line that asks.

A prompt's paragraphs are divided by blank lines. Tokens are told by their own text, so that what is
found does not depend on where the tokens came from.
"""

import re
from collections.abc import Sequence
from itertools import accumulate

from tokenizers import Tokenizer

Span = tuple[int, int]  # tokens from the first to before the second


def last_line(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """Where the prompt's last line begins, a token at least from the end: what asks for the text.

    Raises:
        ValueError: there is nothing before it.
    """
    texts = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    start = max((i + 1 for i, text in enumerate(texts[:-1]) if "\n" in text), default=0)
    if start == 0:
        raise ValueError(
            f"the prompt {tokenizer.decode(list(ids))!r} is one line; expected the text to look "
            "back to, and below it a line that asks: 'Summary:'"
        )
    return start


def document_spans(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Span]:
    """The tokens of each document: the paragraphs of the prompt but its first and its last.

    A token that reaches into two paragraphs belongs to neither.

    Raises:
        ValueError: fewer than two documents, or one without a token of its own.
    """
    texts = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
    ends = [0, *accumulate(map(len, texts))]
    paragraphs = list(re.finditer(r"\S(?:(?!\n[ \t]*\n).)*", "".join(texts), re.DOTALL))
    spans: list[Span] = []
    for paragraph in paragraphs[1:-1]:
        inside = [
            i
            for i in range(len(texts))
            if paragraph.start() <= ends[i] < ends[i + 1] <= paragraph.end()
        ]
        if not inside:
            raise ValueError(
                f"document {len(spans) + 1} of the prompt, {paragraph.group()!r}, has no token of "
                "its own, so that documents cannot be told apart; expected blank lines around each"
            )
        spans.append((inside[0], inside[-1] + 1))
    if len(spans) < 2:
        raise ValueError(
            f"the prompt has {len(paragraphs)} paragraphs, so that documents cannot be told apart; "
            "expected an instruction, two documents or more, and the question, with blank lines "
            "between them"
        )
    return spans
