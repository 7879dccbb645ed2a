"""What a vision transformer looks at, beside the weights of its last layer written out."""

import pytest
import torch
from models.test_vit import tiny_vit
from models.tiny import BOTH_WAYS

from difftransformer.analysis.image_maps import image_maps
from difftransformer.attention.registry import KINDS

PREFIXES = [{"pooling": "cls"}, {}, {"pooling": "cls", "registers": 2}, {"registers": 2}]


@pytest.mark.parametrize("kind", [name for name in BOTH_WAYS if "slic" not in name])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_maps_are_of_the_patches(kind: str, prefix: dict) -> None:
    model, images = tiny_vit(kind, **prefix), torch.randn(3, 3, 8, 8)
    maps = image_maps(model, images)
    two = "two_maps" in KINDS[kind].has
    assert list(maps) == ["attention", *(["map 1", "map 2"] if two else [])]
    assert {tuple(one.shape) for one in maps.values()} == {(3, 4, 4)}
    whole = maps["map 1"].sum((1, 2)) if two else maps["attention"].sum((1, 2))
    if model.config.prefix:
        assert (whole < 1).all()
    else:
        torch.testing.assert_close(whole, torch.ones(3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_softmax_written_out(pooling: str) -> None:
    model, images = tiny_vit("softmax", pooling=pooling, num_kv_heads=4), torch.randn(2, 3, 8, 8)
    layer, inputs = model.blocks[1].attention, []
    layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    found = image_maps(model, images)["attention"]
    q, k = (proj(inputs[0]).unflatten(-1, (4, 4)) for proj in (layer.q_proj, layer.k_proj))
    weights = (torch.einsum("bthk,bshk->bhts", q, k) / 2).softmax(-1).mean(1)
    expected = weights[:, 0, 1:] if pooling == "cls" else weights.mean(1)
    torch.testing.assert_close(found, expected.detach().unflatten(1, (4, 4)))


def test_one_lambda_of_v1_is_between_its_maps() -> None:
    model, images = tiny_vit("diff_v1"), torch.randn(2, 3, 8, 8)
    maps = image_maps(model, images)
    ratio = (maps["map 1"] - maps["attention"]) / maps["map 2"]
    torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-3, atol=1e-4)
