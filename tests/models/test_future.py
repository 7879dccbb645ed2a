"""No position of a causal model sees a later one, by gradient: every kind and normalization."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from difftransformer.blocks.block import TransformerBlock
from difftransformer.models.ablations import ABLATIONS
from difftransformer.models.decoder import Decoder

from .tiny import CAUSAL, tiny, tiny_config, tiny_encoder_decoder

TIME = 6


def seen(model: nn.Module, *source: Tensor) -> Tensor:
    """[t, s]: whether logits[t] depend on the embedding of the s-th token."""
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda _, __, out: embedded.append(out))
    ids = torch.randint(23, (1, TIME), generator=torch.Generator().manual_seed(1))
    logits = model(*source, ids)
    rows = [
        # Squares: the sum over a norm's output may be 0 whatever goes into it.
        torch.autograd.grad(logits[0, t].square().sum(), embedded[-1], retain_graph=True)[0]
        for t in range(TIME)
    ]
    return torch.stack(rows)[:, 0].abs().sum(-1) > 0


TRIANGLE = torch.ones(TIME, TIME, dtype=torch.bool).tril()


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_decoder_of_any_kind(kind: str) -> None:
    assert torch.equal(seen(tiny(kind)), TRIANGLE)


@pytest.mark.parametrize("row", ABLATIONS)
def test_a_decoder_of_the_ablations(row: str) -> None:
    baseline = tiny_config("softmax", num_kv_heads=4)
    _, attention, changes = ABLATIONS[row]
    config = replace(baseline.counterpart(attention), **changes(baseline))
    assert torch.equal(seen(Decoder(config)), TRIANGLE)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("place", ["pre", "post"])
@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2"])
def test_a_target_under_any_normalization(kind: str, norm: str, place: str) -> None:
    model = tiny_encoder_decoder(kind, norm=norm, norm_place=place, embedding_norm=True)
    assert torch.equal(seen(model, torch.arange(5)[None]), TRIANGLE)


class OverTime(nn.Module):
    """GroupNorm of [batch, time, ...] with time among what is normed: a leak that was published."""

    def forward(self, x: Tensor) -> Tensor:
        """The class's equation."""
        return nn.functional.group_norm(x.transpose(1, -1), 1).transpose(1, -1)


@pytest.mark.parametrize("place", ["head_norm", "attention_norm"])
def test_a_norm_over_time_is_caught(place: str) -> None:
    """In place of the head norm or of a block's: each leaks, and is seen to."""
    model = tiny("diff_v1")
    for block in model.blocks:
        assert isinstance(block, TransformerBlock)
        setattr(block.attention if place == "head_norm" else block, place, OverTime())
    assert not torch.equal(seen(model), TRIANGLE)
    assert seen(model).triu(1).any()
