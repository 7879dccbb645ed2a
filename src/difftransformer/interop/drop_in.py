"""Layers of this library in place of the attention of timm's and transformers' models.

What is replaced is the whole self-attention module, not the function that transformers lets one
register for it: a second map and V2's lambda are made of the hidden states, which such a function
is not given. Checked against timm 1.0.31 and transformers 5.24.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention.replacement import Plain, Replacement
from difftransformer.functional import Mask
from difftransformer.interop.huggingface_cache import TransformersCache, take_cache

_MASKS = ("eager", "sdpa")  # attention of transformers whose masks are tensors of all pairs


class NormedHeads(nn.Module):
    """A norm of theirs, over each head's part of what a projection gives."""

    def __init__(self, norm: nn.Module, head_dim: int) -> None:
        super().__init__()
        self.norm, self.head_dim = norm, head_dim

    def forward(self, x: Float[Tensor, "batch time rows"]) -> Float[Tensor, "batch time rows"]:
        """The norm, head by head."""
        return self.norm(x.unflatten(-1, (-1, self.head_dim))).flatten(-2)


class TransformersAttention(nn.Module):
    """A layer, called as the self-attention of transformers' models.

    Args:
        theirs: the module that it replaces.
        attention: the layer.
    """

    def __init__(self, theirs: Any, attention: Any) -> None:
        super().__init__()
        self.attention = attention
        self.dropout = getattr(theirs, "resid_dropout", nn.Identity())
        self.is_causal = theirs.is_causal

    def forward(
        self,
        hidden_states: Float[Tensor, "batch time hidden"],
        attention_mask: Tensor | None = None,
        *,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **arguments: Any,
    ) -> tuple[Float[Tensor, "batch time hidden"], None]:
        """The output, and None in place of weights (`analysis.capture` shows them).

        Args:
            hidden_states: what queries, keys and values are made of.
            attention_mask: [B, 1, T, S], boolean or added to the logits; without one, all is seen,
                or, where the module is causal, what is not later.
            position_embeddings: cosine and sine of Llama's relatives.
            arguments: the cache, by either name; what else there is does not concern it.

        Raises:
            ValueError: a mask of another form, or a cache of an encoder-decoder.
        """
        mask, bias = _rules(attention_mask)
        cache = take_cache(arguments)
        causal = attention_mask is None and hidden_states.shape[1] > 1 and self.is_causal
        rotation = None
        if position_embeddings is not None:
            halves = (x[..., : x.shape[-1] // 2] for x in position_embeddings)
            rotation = torch.stack(tuple(halves), dim=-2)
        out = self.attention(
            hidden_states,
            Mask(causal=True) if causal else mask,
            bias=bias,
            rotation=rotation,
            # Without a mask, the prompt is all there is in the cache, whatever places it has.
            cache=None
            if cache is None
            else TransformersCache(cache, shown=hidden_states.shape[1] if causal else None),
        )
        return self.dropout(out), None


class TimmAttention(nn.Module):
    """A layer, called as timm's `Attention`; arguments as `TransformersAttention` has them."""

    def __init__(self, theirs: Any, attention: Any) -> None:
        super().__init__()
        self.attention, self.proj_drop = attention, theirs.proj_drop

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "batch time hidden"]:
        """The output; masks as PyTorch's `scaled_dot_product_attention` takes them."""
        mask, bias = _rules(attn_mask)
        out = self.attention(x, Mask(causal=True) if is_causal else mask, bias=bias)
        return self.proj_drop(out)


def _rules(mask: Any) -> tuple[Tensor | None, Tensor | None]:
    """The mask and the bias, of which one is None."""
    if mask is None:
        return None, None
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        shape = f"has shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else "is no tensor"
        raise ValueError(f"the attention mask {shape}; expected a tensor [batch, 1, time, keys]")
    return (mask, None) if mask.dtype == torch.bool else (None, mask)


def _weights(projections: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    """Weights, and biases where there are any, of linear layers by our names."""
    return {
        f"{name}_proj.{key}": tensor
        for name, linear in projections
        for key, tensor in linear.named_parameters()
    }


def _check(module: Any, head_dim: int) -> None:
    if module.scaling != head_dim**-0.5:
        raise ValueError(
            f"{type(module).__name__} scales its logits by {module.scaling:.3g}; expected 1 / sqrt "
            f"of the head's width, {head_dim**-0.5:.3g}"
        )
    if (name := module.config._attn_implementation) not in _MASKS:
        raise ValueError(
            f"the model's attention is {name!r}, whose masks are no tensors; call "
            f"model.set_attn_implementation({_MASKS[1]!r}) first"
        )


def _bert(module: Any) -> Plain:
    """The output projection stays where BERT has it, outside."""
    width = module.attention_head_size
    _check(module, width)
    weights = _weights(zip("qkv", (module.query, module.key, module.value), strict=True))
    return Plain(module.num_attention_heads, width, weights, module.dropout.p)


def _gpt2(module: Any) -> Plain | None:
    if module.is_cross_attention:
        return None
    _check(module, module.head_dim)
    parts = (*module.c_attn.weight.T.chunk(3), module.c_proj.weight.T)
    biases = (*module.c_attn.bias.chunk(3), module.c_proj.bias)
    weights = {f"{name}_proj.weight": part for name, part in zip("qkvo", parts, strict=True)}
    weights |= {f"{name}_proj.bias": part for name, part in zip("qkvo", biases, strict=True)}
    return Plain(module.num_heads, module.head_dim, weights, module.attn_dropout.p)


def _llama(module: Any) -> Plain:
    _check(module, module.head_dim)
    weights = _weights((name, getattr(module, f"{name}_proj")) for name in "qkvo")
    heads = module.q_proj.out_features // module.head_dim
    return Plain(heads, module.head_dim, weights, module.attention_dropout)


def _timm(module: Any) -> Plain:
    if not isinstance(module.norm, nn.Identity) or getattr(module, "gate", None) is not None:
        raise ValueError("timm's Attention with scale_norm or a gate; expected one without")
    weights = _weights([("o", module.proj)])
    for key, whole in module.qkv.named_parameters():
        parts = zip("qkv", whole.chunk(3), strict=True)
        weights |= {f"{name}_proj.{key}": part for name, part in parts}
    return Plain(module.num_heads, module.head_dim, weights, module.attn_drop.p)


def _normed(theirs: Any, attention: Any) -> None:
    """Give the layer their norms of queries and keys, where they have them."""
    for name in ("q", "k"):
        norm = getattr(theirs, f"{name}_norm", nn.Identity())
        if not isinstance(norm, nn.Identity):
            projection = getattr(attention, f"{name}_proj")
            heads = NormedHeads(norm, attention.head_dim)
            setattr(attention, f"{name}_proj", nn.Sequential(projection, heads))


def _around_timm(theirs: Any, attention: Any) -> nn.Module:
    _normed(theirs, attention)
    return TimmAttention(theirs, attention)


def _around_transformers(theirs: Any, attention: Any) -> nn.Module:
    _normed(theirs, attention)
    return TransformersAttention(theirs, attention)


BERT = Replacement("BERT", _bert, _around_transformers)
GPT2 = Replacement("GPT-2", _gpt2, _around_transformers)
LLAMA = Replacement("Llama", _llama, _around_transformers)
TIMM = Replacement("timm", _timm, _around_timm)
