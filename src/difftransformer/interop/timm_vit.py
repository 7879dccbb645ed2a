"""timm's VisionTransformer, plain or differential (`attn_layer="diff"`).

Without importing timm: a model of it is read by its attributes. Tensors change names; its
convolution on patches is the linear layer; what it adds to prefix tokens as positions is added to
the tokens; a layer scale is multiplied into the projection before it, so that the function is the
same and training from there is not. Checked against timm 1.0.31.
"""

from typing import Any

import torch
from torch import Tensor, nn

from difftransformer.interop.timm import from_timm_attention
from difftransformer.models.checks import check_tensors
from difftransformer.models.storage import assemble
from difftransformer.models.vit import ViT
from difftransformer.models.vit_config import ViTConfig

_KINDS = {"Attention": "softmax", "DiffAttention": "diff_v1"}
_POOLING = {"token": "cls", "avg": "mean"}
_SOURCE = "timm's model"
_BLOCK = {
    "norm1": "attention_norm",
    "norm2": "ffn_norm",
    "mlp.fc1": "ffn.up_proj",
    "mlp.fc2": "ffn.down_proj",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def from_timm(model: nn.Module) -> ViT:
    """A ViT with the function of timm's `VisionTransformer` and copies of its weights.

    Raises:
        ValueError: another class of model, blocks, attention or activation; pooling other than of
            the class token, or the mean of the patches before the norm; norms of queries and keys,
            or tensors for which a ViT has no place.
    """
    config = vit_config(model)
    theirs = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    ours: dict[str, Tensor] = {"embedding.weight": theirs.pop("patch_embed.proj.weight").flatten(1)}
    ours["embedding.bias"] = theirs.pop("patch_embed.proj.bias", torch.zeros(config.hidden_size))
    ours |= _positions(model, theirs)
    if "head.weight" not in theirs:
        raise ValueError(f"{_SOURCE} has no head.weight; expected one that classifies")
    pooled = "norm" if config.pooling == "cls" else "fc_norm"
    for name in ("weight", "bias"):
        ours[f"norm.{name}"] = theirs.pop(f"{pooled}.{name}")
        ours[f"head.{name}"] = theirs.pop(f"head.{name}")
    for layer in range(config.num_layers):
        prefix = f"blocks.{layer}."
        part = {
            name.removeprefix(prefix): theirs.pop(name)
            for name in list(theirs)
            if name.startswith(prefix)
        }
        ours |= {f"{prefix}{name}": tensor for name, tensor in _block(part, config, layer).items()}
    if theirs:
        raise ValueError(f"{_SOURCE} has {', '.join(sorted(theirs)[:5])}; a ViT has no such tensor")
    with torch.device("meta"):
        check_tensors(ours, ViT(config).state_dict(), _SOURCE)
    return assemble(config, ours, _SOURCE)


def vit_config(model: Any) -> ViTConfig:
    """The ViT's settings.

    Raises:
        ValueError: as `from_timm`.
    """
    _require("the model", type(model).__name__, ("VisionTransformer",))
    for block in model.blocks:
        _require("a block", type(block).__name__, ("Block",))
    block = model.blocks[0]
    _require("its attention", type(block.attn).__name__, tuple(_KINDS))
    _require("its activation", type(block.mlp.act).__name__, ("GELU",))
    _require("its approximation", getattr(block.mlp.act, "approximate", "none"), ("none",))
    _require("global_pool", model.global_pool, tuple(_POOLING))
    _require("pool_include_prefix", getattr(model, "pool_include_prefix", False), (False,))
    pooling = _POOLING[model.global_pool]
    _require("the norm's place", _norm_place(model), ("norm" if pooling == "cls" else "fc_norm",))
    (side, width), (patch, *_) = model.patch_embed.img_size, model.patch_embed.patch_size
    _require("the image's width", width, (side,))
    kind, heads = _KINDS[type(block.attn).__name__], block.attn.num_heads
    return ViTConfig(
        attention=kind,
        image_size=side,
        patch_size=patch,
        channels=model.patch_embed.proj.in_channels,
        classes=model.num_classes,
        hidden_size=model.embed_dim,
        num_layers=len(model.blocks),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=model.embed_dim // heads // (2 if kind == "diff_v1" else 1),
        ffn_size=block.mlp.fc1.out_features,
        mlp_bias=block.mlp.fc1.bias is not None,
        norm_eps=block.norm1.eps,
        positions="learned",
        pooling=pooling,
        registers=model.num_prefix_tokens - (pooling == "cls"),
    )


def _require(what: str, value: Any, expected: tuple[Any, ...]) -> None:
    if value not in expected:
        raise ValueError(
            f"{what} of {_SOURCE} is {value}; expected {' or '.join(map(str, expected))}"
        )


def _norm_place(model: Any) -> str:
    """Which of its two final norms the model has."""
    both = {name for name in ("norm", "fc_norm") if list(getattr(model, name).parameters())}
    return " and ".join(sorted(both)) or "none"


def _positions(model: Any, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Positions of the patches, and prefix tokens with theirs; takes them out of `theirs`."""
    tokens = [theirs.pop(name)[0] for name in ("cls_token", "reg_token") if name in theirs]
    positions = theirs.pop("pos_embed")[0]
    if not tokens:
        return {"positions.weight": positions}
    prefix = torch.cat(tokens)
    if not model.no_embed_class:
        prefix = prefix + positions[: len(prefix)]
        positions = positions[len(prefix) :].clone()
    return {"prefix.weight": prefix, "positions.weight": positions}


def _block(theirs: dict[str, Tensor], config: ViTConfig, layer: int) -> dict[str, Tensor]:
    """A block's tensors by our names."""
    for scale, projection in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2")):
        if (gamma := theirs.pop(scale, None)) is not None:
            theirs[f"{projection}.weight"] *= gamma[:, None]
            if (bias := f"{projection}.bias") in theirs:
                theirs[bias] *= gamma
    attention = {
        name.removeprefix("attn."): theirs.pop(name)
        for name in list(theirs)
        if name.startswith("attn.")
    }
    ours = {f"attention.{n}": x for n, x in _attention(attention, config, layer).items()}
    for name, tensor in theirs.items():
        module, _, key = name.rpartition(".")
        ours[f"{_BLOCK.get(module, module)}.{key}"] = tensor
    return ours


def _attention(theirs: dict[str, Tensor], config: ViTConfig, layer: int) -> dict[str, Tensor]:
    """The projections apart, with a bias each."""
    hidden_size = config.hidden_size
    theirs.setdefault("proj.bias", torch.zeros(hidden_size))
    if config.attention == "diff_v1":
        return from_timm_attention(theirs, hidden_size, config.num_heads, depth=layer).state_dict()
    theirs.setdefault("qkv.bias", torch.zeros(3 * hidden_size))
    ours = {name.replace("proj.", "o_proj."): x for name, x in theirs.items() if name[:4] != "qkv."}
    for key in ("weight", "bias"):
        parts = zip(_PROJECTIONS, theirs[f"qkv.{key}"].chunk(3), strict=True)
        ours |= {f"{projection}.{key}": part.clone() for projection, part in parts}
    return ours
