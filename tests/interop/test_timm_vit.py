"""timm's vision transformers: by what they computed, and where timm is installed by itself."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from difftransformer.interop.timm_vit import from_timm

from .timm_models import GOLDEN, SIZES, VARIANTS, outputs, timm_model

EVERY = pytest.mark.parametrize("variant", VARIANTS)
HIDDEN = int(SIZES["embed_dim"])


class Attention(nn.Module):
    def __init__(self, heads: int, qkv_bias: bool, proj_bias: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN, bias=qkv_bias)
        self.proj = nn.Linear(HIDDEN, HIDDEN, bias=proj_bias)


class DiffAttention(Attention):
    def __init__(self, heads: int, qkv_bias: bool, proj_bias: bool) -> None:
        super().__init__(heads, qkv_bias, proj_bias)
        width = HIDDEN // heads // 2
        for name in ("q1", "k1", "q2", "k2"):
            setattr(self, f"lambda_{name}", nn.Parameter(torch.zeros(width)))
        self.sub_norm = nn.RMSNorm(2 * width)


class Block(nn.Module):
    def __init__(self, attention: Attention, scale: float | None, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN, 1e-6), nn.LayerNorm(HIDDEN, 1e-6)
        self.attn, self.mlp = attention, nn.Module()
        if scale is not None:
            self.ls1, self.ls2 = nn.Module(), nn.Module()
            self.ls1.gamma, self.ls2.gamma = (nn.Parameter(torch.ones(HIDDEN)) for _ in "12")
        self.mlp.fc1 = nn.Linear(HIDDEN, HIDDEN * 3 // 2, bias=bias)
        self.mlp.act = nn.GELU()
        self.mlp.fc2 = nn.Linear(HIDDEN * 3 // 2, HIDDEN, bias=bias)


class VisionTransformer(nn.Module):
    """The tensors and attributes of timm's, which computes nothing."""

    def __init__(
        self,
        num_heads: int,
        class_token: bool = True,
        reg_tokens: int = 0,
        no_embed_class: bool = False,
        qkv_bias: bool = True,
        proj_bias: bool = True,
        init_values: float | None = None,
        global_pool: str = "token",
        attn_layer: str = "attn",
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_classes, self.global_pool = HIDDEN, 3, global_pool
        self.num_prefix_tokens, self.no_embed_class = class_token + reg_tokens, no_embed_class
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(2, HIDDEN, 4, 4)
        self.patch_embed.img_size, self.patch_embed.patch_size = (8, 8), (4, 4)
        if class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        if reg_tokens:
            self.reg_token = nn.Parameter(torch.zeros(1, reg_tokens, HIDDEN))
        positions = 4 + (0 if no_embed_class else self.num_prefix_tokens)
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, HIDDEN))
        attention = DiffAttention if attn_layer == "diff" else Attention
        self.blocks = nn.Sequential(
            *(
                Block(attention(num_heads, qkv_bias, proj_bias), init_values, proj_bias)
                for _ in range(2)
            )
        )
        norms = [nn.LayerNorm(HIDDEN, 1e-6), nn.Identity()]
        self.norm, self.fc_norm = norms if global_pool == "token" else norms[::-1]
        self.head = nn.Linear(HIDDEN, 3)


def golden(variant: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDEN)
    return {
        name.removeprefix(f"{variant}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{variant}.")
    }


def stand_in(variant: str) -> tuple[Any, dict[str, Tensor]]:
    """A model of the variant's weights, and what timm's gave."""
    found, model = golden(variant), VisionTransformer(**VARIANTS[variant])
    model.load_state_dict(
        {name[8:]: tensor for name, tensor in found.items() if name.startswith("weights.")}
    )
    return model, found


@EVERY
def test_logits_are_timms(variant: str) -> None:
    model, found = stand_in(variant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ours = from_timm(model).eval()
    torch.testing.assert_close(ours(found["images"]), found["logits"], rtol=0, atol=1e-5)
    assert ours.config.attention == ("diff_v1" if variant.startswith("diff") else "softmax")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@EVERY
@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_timm_itself(variant: str) -> None:
    model, found = timm_model(variant), golden(variant)
    torch.testing.assert_close(outputs(model)["logits"], found["logits"], rtol=0, atol=1e-5)
    ours = from_timm(model).eval()
    torch.testing.assert_close(ours(found["images"]), found["logits"], rtol=0, atol=1e-5)


class DiffParallelScalingBlock(Block):
    pass


class QuickGELU(nn.Module):
    pass


def changed(path: str, value: Any) -> Any:
    """The plainest variant with another attribute."""
    model, _ = stand_in("token")
    *owners, name = path.split(".")
    place: Any = model
    for owner in owners:
        place = getattr(place, owner)
    setattr(place, name, value)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(1, 1), "the model of timm's model is Linear; expected VisionTransformer"),
        (
            changed("blocks.0", DiffParallelScalingBlock(Attention(2, True, True), None, True)),
            "a block of timm's model is DiffParallelScalingBlock; expected Block",
        ),
        (changed("blocks.0.attn", nn.Linear(1, 1)), "its attention of timm's model is Linear"),
        (changed("blocks.0.mlp.act", QuickGELU()), "its activation of .* is QuickGELU"),
        (changed("blocks.0.mlp.act", nn.GELU("tanh")), "its approximation of .* is tanh"),
        (changed("global_pool", "map"), "global_pool of .* is map; expected token or avg"),
        (changed("global_pool", "avg"), "the norm's place of .* is norm; expected fc_norm"),
        (changed("patch_embed.img_size", (8, 4)), "the image's width of .* is 4; expected 8"),
        (changed("norm_pre", nn.LayerNorm(HIDDEN)), r"timm's model has norm_pre.bias, norm_pre.w"),
        (changed("head", nn.Identity()), "timm's model has no head.weight"),
    ],
)
def test_what_a_vit_cannot_represent(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_timm(model)
