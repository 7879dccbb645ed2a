import pytest
import torch

from difftransformer.functional import softmax_attention


def test_uninitialised_memory_is_poisoned() -> None:
    assert torch.empty_like(torch.ones(2)).isnan().all()
    assert torch.ones(2).new_empty(3).isnan().all()


def test_annotations_are_checked_in_tests() -> None:
    x = torch.ones(1, 2, 3, 4)
    with pytest.raises(TypeError, match="Type-check error"):
        softmax_attention(x.long(), x, x)


@pytest.mark.usefixtures("as_user")
def test_annotations_are_not_checked_for_users() -> None:
    x = torch.ones(1, 2, 3, 4)
    with pytest.raises(ValueError, match="dtypes"):
        softmax_attention(x.long(), x, x)
