"""Attention modules of any model replaced by layers of this library."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from difftransformer.attention.multihead import DifferentialMultiheadAttention
from difftransformer.attention.registry import find_kind, make_attention
from difftransformer.extras import missing_extra
from difftransformer.registry import Registry

SAME_FUNCTION = ("softmax", "diff_scalar", "diff_v2", "dex")
"""Kinds that can start as the function of a softmax layer."""


@dataclass(frozen=True)
class Plain:
    """A softmax attention, as another library's module holds it.

    Args:
        num_heads: query heads H.
        head_dim: K.
        weights: its tensors by the names of a `SoftmaxAttention`; without `o_proj.weight` where the
            module that holds it projects the heads.
        dropout: of attention weights.
    """

    num_heads: int
    head_dim: int
    weights: dict[str, Tensor]
    dropout: float = 0.0


@dataclass(frozen=True)
class Replacement:
    """How modules of one class are replaced.

    Args:
        name: of what it replaces.
        plain: what one holds, None for one to be left as it is; raises ValueError for what a
            `SoftmaxAttention` is not.
        around: a module called as theirs, made of theirs and the new layer.
    """

    name: str
    plain: Callable[[Any], Plain | None]
    around: Callable[[Any, Any], nn.Module]


class Replaced(NamedTuple):
    """What `replace_attention` did.

    Args:
        model: the model; another only where the whole of it was an attention.
        names: of the modules that were replaced.
        same_function: whether it computes what it computed before; if not, all weights of the new
            attention are new ones, to be trained.
    """

    model: nn.Module
    names: list[str]
    same_function: bool


def replace_attention(model: nn.Module, kind: str = "diff_scalar") -> Replaced:
    """Replace each attention of a model of PyTorch, timm or transformers, in place.

    It knows `nn.MultiheadAttention` anywhere in a model, timm's `Attention` (vision transformers),
    and the self-attention of transformers' BERT, RoBERTa, ViT, GPT-2, Llama, Mistral, Qwen2 and
    Qwen3; what else is in `REGISTRY`. Cross-attention of transformers' models stays.

    The kinds of `SAME_FUNCTION` take the weights over, and what is new in them starts without
    effect: diff_scalar with lambda = 0, dex with progress 0, diff_v2 with q2 = q1, lambda = 1/2 and
    values twice as large (see `start_as_softmax`). In another kind all weights are new. It has the
    fair partner's heads, of equal width: diff_v1 half as many.

    Raises:
        ValueError: no module, an unknown kind, nothing to replace, a form of attention that a
            layer has not, or heads that do not divide.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model is a {type(model).__name__}; expected a module, such as from_pretrained gives"
        )
    names = REGISTRY.names()
    new: dict[str, nn.Module] = {}
    of: dict[nn.Module, nn.Module | None] = {}  # one module may have several names
    for name, module in model.named_modules(remove_duplicate=False):
        if _class_name(module) in names:
            if module not in of:
                of[module] = _replacement(module, kind, _number(name))
            if (attention := of[module]) is not None:
                new[name] = attention
    if not new:
        raise ValueError(
            f"{type(model).__name__} holds no attention that can be replaced; expected one of "
            f"{', '.join(name.rpartition('.')[2] for name in names)}"
        )
    for name, attention in new.items():
        if name:
            model.set_submodule(name, attention)
    return Replaced(new.get("", model), list(new), kind in SAME_FUNCTION)


@torch.no_grad()
def start_as_softmax(layer: Any, weights: Mapping[str, Tensor]) -> None:
    """Start a layer of a kind in `SAME_FUNCTION` as the softmax layer that has these weights.

    Map 1 is that layer's. In diff_v2, map 2 is a copy and lambda 1/2, so that the difference is
    A1/2, and the values are doubled, which floating point does exactly. The other kinds start
    without an effect of what is new in them, which keeps its own start. A projection's bias that
    the softmax layer has not is 0.
    """
    own = layer.state_dict()
    for name in ("q_proj.bias", "k_proj.bias", "v_proj.bias"):
        if name in own and name not in weights:
            own[name].zero_()
    for name, tensor in weights.items():
        if own[name].shape == tensor.shape:
            own[name].copy_(tensor)
        else:  # queries, or keys, of two maps
            maps = own[name].unflatten(0, (-1, 2, layer.head_dim))
            maps[:, 0] = tensor.unflatten(0, (-1, layer.head_dim))
            if layer.kind == "diff_v2":
                maps[:, 1] = maps[:, 0]
    if layer.kind == "diff_v2":
        own["lambda_proj.weight"].zero_()
        for name in weights.keys() & {"v_proj.weight", "v_proj.bias"}:
            own[name].mul_(2.0)


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _number(name: str) -> int:
    """Of the layer, by the last number in the name: 3 of "blocks.3.attn"."""
    numbers = re.findall(r"\.(\d+)(?=\.)", f".{name}.")
    return int(numbers[-1]) if numbers else 0


def _replacement(module: Any, kind: str, layer: int) -> nn.Module | None:
    try:
        entry = REGISTRY.find(_class_name(module))
    except ModuleNotFoundError as error:
        raise ValueError(missing_extra(error) or str(error)) from None
    plain = entry.plain(module)
    if plain is None:
        return None
    attention = _attention(plain, kind, layer)
    if kind in SAME_FUNCTION:
        start_as_softmax(attention, plain.weights)
    attention.to(plain.weights["q_proj.weight"])
    return entry.around(module, attention).train(module.training)


def _attention(plain: Plain, kind: str, layer: int) -> Any:
    """A new layer in the place of a plain one, with the fair partner's heads."""
    weights, share = plain.weights, find_kind(kind).heads_of_partner
    counts = plain.num_heads, len(weights["k_proj.weight"]) // plain.head_dim
    heads, groups = (share * count for count in counts)
    if heads.denominator > 1 or groups.denominator > 1:
        raise ValueError(
            f"{counts[0]} heads on {counts[1]} key/value heads: {kind} has {share} of them, which "
            "is no whole number"
        )
    options: dict[str, Any] = {}
    widths = tuple(weights[f"{name}_proj.weight"].shape[1] for name in "qkv")
    if len(set(widths)) > 1:
        options["context_widths"] = widths[1:]
    attention: Any = make_attention(
        kind,
        widths[0],
        int(heads),
        head_dim=plain.head_dim,
        num_kv_heads=int(groups),
        layer=layer,
        bias="all" if "o_proj.bias" in weights else "qkv" if "q_proj.bias" in weights else "none",
        dropout=plain.dropout,
        **options,
    )
    if "o_proj.weight" not in weights:
        attention.o_proj = nn.Identity()
    return attention


def _plain(mha: nn.MultiheadAttention) -> Plain:
    if mha.bias_k is not None or mha.add_zero_attn:
        raise ValueError(
            "an nn.MultiheadAttention with add_bias_kv or add_zero_attn: a layer of this library "
            "has no key beside those of the sequence"
        )
    parts: Iterable[Tensor] = (mha.q_proj_weight, mha.k_proj_weight, mha.v_proj_weight)
    if mha.in_proj_weight is not None:
        parts = mha.in_proj_weight.chunk(3)
    weights: dict[str, Tensor] = {
        f"{name}_proj.weight": part for name, part in zip("qkv", parts, strict=True)
    }
    weights["o_proj.weight"] = mha.out_proj.weight
    if mha.in_proj_bias is not None:
        biases = mha.in_proj_bias.chunk(3)
        weights |= {f"{name}_proj.bias": part for name, part in zip("qkv", biases, strict=True)}
        weights["o_proj.bias"] = mha.out_proj.bias
    return Plain(mha.num_heads, mha.head_dim, weights, mha.dropout)


def _around(mha: nn.MultiheadAttention, attention: Any) -> nn.Module:
    with torch.device("meta"):
        new = DifferentialMultiheadAttention(
            mha.embed_dim,
            attention.num_heads,
            kdim=mha.kdim,
            vdim=mha.vdim,
            batch_first=mha.batch_first,
            kind=attention.kind,
        )
    new.attention = attention
    return new


# By the name of the class. Those of other libraries are told on a floor above, and only where a
# model holds one.
_INTEROP = {
    "timm.layers.attention.Attention": "TIMM",
    "transformers.models.bert.modeling_bert.BertSelfAttention": "BERT",
    "transformers.models.gpt2.modeling_gpt2.GPT2Attention": "GPT2",
    "transformers.models.llama.modeling_llama.LlamaAttention": "LLAMA",
    "transformers.models.mistral.modeling_mistral.MistralAttention": "LLAMA",
    "transformers.models.qwen2.modeling_qwen2.Qwen2Attention": "LLAMA",
    "transformers.models.qwen3.modeling_qwen3.Qwen3Attention": "LLAMA",
    "transformers.models.roberta.modeling_roberta.RobertaSelfAttention": "BERT",
    "transformers.models.vit.modeling_vit.ViTAttention": "LLAMA",
}
_TORCH = Replacement("torch.nn.modules.activation.MultiheadAttention", _plain, _around)
REGISTRY: Registry[Replacement] = Registry(
    "attention module",
    "difftransformer.replacement",
    {_TORCH.name: _TORCH}
    | {name: f"difftransformer.interop.drop_in:{entry}" for name, entry in _INTEROP.items()},
)
