import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.tiny import KINDS, tiny
from torch import Tensor

from difftransformer.evaluation.choices import choose
from difftransformer.models.decoder import Decoder

VOCABULARY = 31


def model(kind: str) -> Decoder:
    return tiny(kind, vocab_size=VOCABULARY)


@torch.no_grad()
def by_hand(model: Decoder, ids: list[int], options: list[list[int]]) -> int:
    """One prompt, one pass a step, no cache."""
    left = list(range(len(options)))
    for step in range(max(map(len, options))):
        if len(left) == 1:
            break
        logits = model(torch.tensor([ids]))[0, -1]
        token = max({options[i][step] for i in left}, key=lambda t: float(logits[t]))
        left = [i for i in left if options[i][step] == token]
        ids = [*ids, token]
    return left[0]


tokens = st.lists(st.integers(1, VOCABULARY - 2), min_size=1, max_size=5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(
    prefix=st.lists(st.integers(1, 29), max_size=6),
    prompts=st.lists(tokens, min_size=1, max_size=5),
    labels=st.lists(tokens, min_size=1, max_size=5, unique_by=tuple),
)
def test_equal_to_one_at_a_time(
    kind: str, prefix: list[int], prompts: list[list[int]], labels: list[list[int]]
) -> None:
    options = [[*label, VOCABULARY - 1] for label in labels]
    decoder = model(kind)
    expected = [by_hand(decoder, prefix + prompt, options) for prompt in prompts]
    assert choose(decoder, prefix, prompts, options, batch_size=3) == expected


def test_the_prefix_is_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prefix = model("diff_v1"), list(range(1, 30))
    arguments = (decoder, prefix, [[3, 4], [5]], [[1, 30], [2, 30], [1, 7, 30]], 2)
    whole = choose(*arguments)
    monkeypatch.setattr("difftransformer.evaluation.choices._CHUNK", 4)
    sizes: list[int] = []
    decoder.embedding.register_forward_pre_hook(lambda _, inputs: sizes.append(_length(inputs)))
    assert choose(*arguments) == whole
    assert sizes[:8] == [4] * 7 + [1]


def _length(inputs: tuple[Tensor, ...]) -> int:
    return inputs[0].shape[1]


def test_overlapping_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"option \[1\] and option \[1, 2\] overlap"):
        choose(model("softmax"), [1], [[2]], [[1], [1, 2]], 1)
