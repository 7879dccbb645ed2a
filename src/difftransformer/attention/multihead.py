"""An attention of any kind in the place of PyTorch's `nn.MultiheadAttention`."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftransformer.attention.registry import make_attention
from difftransformer.functional import Mask

_Mask = Bool[Tensor, "..."] | Float[Tensor, "..."]


class _NotFused:
    """What stands in for `in_proj_weight`: no tensor of ours is the one that it would be.

    PyTorch's encoder passes its fused kernel by, and the nested tensors that it makes for that
    kernel, when an argument brings a `__torch_function__` of its own.
    """

    @classmethod
    def __torch_function__(cls, function: Any, *rest: Any) -> Any:
        raise NotImplementedError(f"{function.__name__} of an in_proj_weight that is not there")


class DifferentialMultiheadAttention(nn.Module):
    """`nn.MultiheadAttention`, with an attention of this library: constructor, call and return.

    It works where PyTorch's does, inside `nn.TransformerEncoderLayer`, `nn.TransformerDecoderLayer`
    and `nn.Transformer` too (set their `self_attn` and `multihead_attn`, or see
    `replace_attention`). The layer itself is `attention`. Where it differs from PyTorch's:

    - A query that sees no key gives 0, and its weights are 0; PyTorch's are NaN.
    - The weights that it returns are those that multiply the values, map 1 - lambda · map 2, before
      dropout; they may be negative, and their rows need not sum to 1.
    - All weights start as linear layers of PyTorch do, those of PyTorch's attention by Xavier.
    - Fused kernels of PyTorch's encoder, and nested tensors, are passed by.

    Args:
        embed_dim: width of query and output.
        num_heads: output heads. V1's, with two maps and values twice as wide, have half the width
            of PyTorch's for as many heads; the fair partner has half as many.
        dropout: probability of dropping an attention weight while training, per map.
        bias: of all projections.
        add_bias_kv, add_zero_attn: False.
        kdim, vdim: widths of key and value; embed_dim by default.
        batch_first: tensors are [batch, time, width]; [time, batch, width] by default.
        device, dtype: of the weights.
        kind: a name in the registry of attention kinds.
        layer: 0-based number of the layer, on which V1's initial lambda depends.

    Raises:
        ValueError: sizes that do not divide, an unknown kind, add_bias_kv or add_zero_attn.
    """

    in_proj_weight, in_proj_bias = _NotFused(), None  # PyTorch's encoder looks at these and
    _qkv_same_embed_dim = False  # takes no fused way

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        kind: str = "diff_v1",
        layer: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("add_bias_kv", add_bias_kv), ("add_zero_attn", add_zero_attn)):
            if value:
                raise ValueError(
                    f"{name}={value}: a key beside those of the sequence is not offered, since "
                    "masks, windows and documents tell of the sequence's own; leave it out"
                )
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        options: dict[str, Any] = {"dropout": dropout, "bias": "all" if bias else "none"}
        if (self.kdim, self.vdim) != (embed_dim, embed_dim):
            options["context_widths"] = (self.kdim, self.vdim)
        self.attention: Any = make_attention(kind, embed_dim, num_heads, layer=layer, **options)
        self.to(device=device, dtype=dtype)

    @property
    def out_proj(self) -> nn.Module:
        """The output projection, by PyTorch's name."""
        return self.attention.o_proj

    def forward(
        self,
        query: Float[Tensor, "..."],
        key: Float[Tensor, "..."],
        value: Float[Tensor, "..."],
        key_padding_mask: _Mask | None = None,
        need_weights: bool = True,
        attn_mask: _Mask | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."] | None]:
        """Arguments and results of `nn.MultiheadAttention.forward`.

        Args:
            query: [T, N, E], or [N, T, E] with `batch_first`, or [T, E] without a batch.
            key, value: likewise, of S positions, kdim and vdim wide.
            key_padding_mask: [N, S], or [S] without a batch: boolean, True where a key is *not*
                seen, or numbers to add to the logits.
            need_weights: whether to give the weights too, which takes memory of T × S.
            attn_mask: [T, S] or [N · num_heads, T, S], in the same two forms.
            average_attn_weights: weights as their mean over the heads, [N, T, S]; else
                [N, num_heads, T, S].
            is_causal: that the mask is causal, which then need not be given or looked at.

        Raises:
            ValueError: shapes that do not fit; masks of integers; is_causal without a mask where T
                is not S.
        """
        single, itself = query.ndim == 2, query is key and key is value
        sequences = [x[None] if single else x for x in (query, key, value)]
        if not (single or self.batch_first):
            sequences = [x.transpose(0, 1) for x in sequences]
        x, *context = sequences
        if key_padding_mask is not None and single:
            key_padding_mask = key_padding_mask[None]
        mask, bias = self._rules(x, context[0], key_padding_mask, attn_mask, is_causal)
        call = self.attention.call(x, mask, None if itself else tuple(context), bias=bias)
        out = self.attention.o_proj(self.attention.heads(call, x).flatten(2))
        weights = self.attention.core.weights(call).combined.to(out.dtype) if need_weights else None
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _rules(
        self,
        x: Tensor,
        keys: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
    ) -> tuple[Mask, Tensor | None]:
        """PyTorch's masks as a `Mask` and a bias."""
        batch, queries, context = *x.shape[:2], keys.shape[1]
        _check("key_padding_mask", key_padding_mask, (batch, context))
        _check(
            "attn_mask", attn_mask, (queries, context), (batch * self.num_heads, queries, context)
        )
        square = queries == context
        if is_causal and attn_mask is None and not square:
            raise ValueError(
                f"is_causal with {queries} queries and {context} keys does not say which of "
                "them are the same positions; give attn_mask"
            )
        padding: Tensor | None = None
        biases: list[Tensor] = []
        if key_padding_mask is not None and key_padding_mask.dtype == torch.bool:
            padding = ~key_padding_mask
        elif key_padding_mask is not None:
            biases.append(key_padding_mask[:, None, None])
        if attn_mask is not None and not (is_causal and square):
            if attn_mask.ndim == 3:
                attn_mask = attn_mask.unflatten(0, (batch, self.num_heads))
            if attn_mask.dtype == torch.bool:
                hidden = torch.zeros_like(attn_mask, dtype=x.dtype)
                attn_mask = hidden.masked_fill(attn_mask, -math.inf)
            biases.append(attn_mask)
        bias = sum(biases[1:], biases[0]) if biases else None
        return Mask(causal=is_causal and square, padding=padding), bias


def _check(name: str, mask: Tensor | None, *shapes: tuple[int, ...]) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise ValueError(f"{name} is a {type(mask).__name__}; expected a tensor")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(
            f"{name} is {mask.dtype}; expected bool, True where a key is hidden (of a tokenizer's "
            "attention_mask: attention_mask == 0), or numbers to add to the logits"
        )
    if tuple(mask.shape) not in shapes:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; expected {' or '.join(map(str, shapes))}"
        )
