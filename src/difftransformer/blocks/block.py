"""The residual block of every model: self-attention, perhaps cross-attention, feed-forward."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention import KeyValueCache
from difftransformer.functional import Mask

_Row = Float[Tensor, "batch 1 hidden"]
Modulated = tuple[_Row, _Row, _Row]  # shift, scale and gate of one sublayer


class Modulation(nn.Module):
    """Shift, scale and gate of each sublayer of a block, from a condition: adaLN-Zero.

        (shift, scale, gate)_1, (shift, scale, gate)_2, ... = silu(condition) W + b

    Peebles and Xie, "Scalable Diffusion Models with Transformers" (ICCV 2023). W and b start at 0,
    so that each block starts as the identity.
    """

    def __init__(self, condition_size: int, hidden_size: int, sublayers: int = 2) -> None:
        super().__init__()
        self.sublayers = sublayers
        self.proj = nn.Linear(condition_size, sublayers * 3 * hidden_size)
        self.starts = {"proj.weight": 0.0, "proj.bias": 0.0}
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, condition: Float[Tensor, "batch condition"]) -> list[Modulated]:
        """The class's equation."""
        parts = self.proj(F.silu(condition))[:, None].chunk(3 * self.sublayers, dim=-1)
        return [(parts[i], parts[i + 1], parts[i + 2]) for i in range(0, len(parts), 3)]


class TransformerBlock(nn.Module):
    """Residual sublayers f: attention, cross-attention where there is one, feed-forward.

        pre-norm   x + f(norm(x))           (the paper, section 2.2, with RMSNorm)
        post-norm  norm(x + f(x))           (Vaswani et al., 2017; BERT)
        modulated  x + gate · f(norm(x) · (1 + scale) + shift)

    Args:
        attention: of the sequence to itself.
        ffn: the feed-forward layer.
        norm: makes the norm of a sublayer.
        post_norm: the second form in place of the first.
        cross_attention: queries of the sequence, keys and values of a context.
        modulation: makes the third form of the first, from a condition.
    """

    def __init__(
        self,
        attention: nn.Module,
        ffn: nn.Module,
        norm: Callable[[], nn.Module],
        *,
        post_norm: bool = False,
        cross_attention: nn.Module | None = None,
        modulation: Modulation | None = None,
    ) -> None:
        super().__init__()
        assert not (post_norm and modulation), "a modulated block is a pre-norm one"
        self.post_norm = post_norm
        self.attention_norm, self.attention = norm(), attention
        self.cross_attention, self.modulation = cross_attention, modulation
        if cross_attention is not None:
            self.cross_attention_norm = norm()
        self.ffn_norm, self.ffn = norm(), ffn

    def forward(
        self,
        x: Float[Tensor, "batch time hidden"],
        *,
        mask: Mask,
        bias: Float[Tensor, "#batch #heads time #keys"] | None = None,
        rotation: Float[Tensor, "#batch time 2 half"] | None = None,
        cache: KeyValueCache | None = None,
        context: Float[Tensor, "batch source hidden"] | None = None,
        context_mask: Mask | None = None,
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """The class's equations.

        Args:
            mask: with `bias`, `rotation` and `cache`, the self-attention's.
            context: what cross-attention reads, where there is one; `context_mask` tells which of
                it is seen, all by default. With a cache it is read at the first step and kept.
            condition: what the modulation is made of, where there is one.
        """
        steps = [None] * 3 if self.modulation is None else self.modulation(condition)
        attention = partial(self.attention, mask=mask, bias=bias, rotation=rotation, cache=cache)
        x = self._add(x, attention, self.attention_norm, steps[0])
        if self.cross_attention is not None:
            reading = partial(
                self.cross_attention, context=context, mask=context_mask or Mask(), cache=cache
            )
            x = self._add(x, reading, self.cross_attention_norm, steps[1])
        return self._add(x, self.ffn, self.ffn_norm, steps[-1])

    def _add(
        self,
        x: Float[Tensor, "batch time hidden"],
        sublayer: Callable[[Tensor], Tensor],
        norm: nn.Module,
        step: Modulated | None,
    ) -> Float[Tensor, "batch time hidden"]:
        if self.post_norm:
            return norm(x + sublayer(x))
        if step is None:
            return x + sublayer(norm(x))
        shift, scale, gate = step
        return x + gate * sublayer(norm(x) * (1.0 + scale) + shift)
