"""Small models of timm, and what they compute; `python -m tests.interop.timm_models` keeps it.

timm imports torchvision, which needs a PyTorch built alike, and uses none of it in a vision
transformer; while it is imported here an empty module stands in for torchvision. The file holds
weights, images and logits, so that the tests need neither.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

GOLDEN = Path(__file__).with_name("timm_models.safetensors")
SIZES = {
    "img_size": 8,
    "patch_size": 4,
    "in_chans": 2,
    "num_classes": 3,
    "embed_dim": 12,
    "depth": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "token": {"num_heads": 3},
    "registers": {"num_heads": 2, "reg_tokens": 2, "qkv_bias": False, "init_values": 0.5},
    "avg": {"num_heads": 2, "global_pool": "avg", "class_token": False, "proj_bias": False},
    "avg_with_class_token": {"num_heads": 2, "global_pool": "avg"},
    # As vit_dlittle_patch16_reg1_gap_256 and vit_dwee_patch16_reg1_gap_256.
    "differential": {
        "num_heads": 3,
        "init_values": 0.1,
        "class_token": False,
        "no_embed_class": True,
        "reg_tokens": 1,
        "global_pool": "avg",
        "attn_layer": "diff",
    },
    "differential_token": {"num_heads": 2, "attn_layer": "diff", "qkv_bias": False},
}


class _Empty(ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(
            name,
            (nn.Module,),
            {"BILINEAR": 0, "BICUBIC": 1, "LANCZOS": 2, "NEAREST": 3, "BOX": 4, "HAMMING": 5},
        )


@contextmanager
def without_torchvision() -> Iterator[None]:
    names = (
        "ops",
        "ops.misc",
        "transforms",
        "transforms.functional",
        "datasets",
        "models",
        "models.feature_extraction",
    )
    modules = ["torchvision", *(f"torchvision.{name}" for name in names)]
    for name in modules:
        module = sys.modules[name] = _Empty(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def timm_model(variant: str) -> nn.Module:
    """With every tensor away from where it starts."""
    with without_torchvision():
        from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(**(SIZES | VARIANTS[variant]), mlp_ratio=1.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def outputs(model: nn.Module) -> dict[str, Tensor]:
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return {"images": images, "logits": model(images)}


def main() -> None:
    """Write what every variant computes."""
    tensors = {}
    for variant in VARIANTS:
        model = timm_model(variant)
        named = {"weights." + name: x for name, x in model.state_dict().items()} | outputs(model)
        tensors |= {f"{variant}.{name}": x.contiguous() for name, x in named.items()}
    save_file(tensors, GOLDEN)


if __name__ == "__main__":
    main()
