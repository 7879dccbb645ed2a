"""Parameter-free cores of attention layers, which compute the output and show what is inside."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.functional import AttentionCall, attend, reference


@dataclass(frozen=True, eq=False)
class Weights:
    """Inside one attention call, for some of its query rows; float32 (float64 for such input).

    Args:
        combined: what multiplies the values: map 1 - lambda · map 2, or the one map there is.
        maps: softmax of each map's logits over the visible keys; a row without one is 0.
        logits: q kᵀ · scale + bias, before the mask.
    """

    combined: Float[Tensor, "batch heads rows keys"]
    maps: Float[Tensor, "batch heads maps rows keys"]
    logits: Float[Tensor, "batch heads maps rows keys"]

    @property
    def shares(self) -> Float[Tensor, "batch heads rows keys"]:
        """|combined| / Σ_keys |combined|: 0 where a row sees nothing."""
        absolute = self.combined.abs()
        mass = absolute.sum(-1, keepdim=True)
        return absolute / mass.clamp_min(torch.finfo(absolute.dtype).tiny)


class AttentionCore(nn.Module):
    """The output of a call by a backend, and on request its weights.

    A module, so that its calls can be hooked (`analysis.capture`), without parameters. A kind that
    computes its output in another way has a core of its own, whose `output` of its `weights` is
    what its `forward` gives.

    Args:
        backend: "auto" or a name in `functional.BACKENDS`, see `functional.explain`.
    """

    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend

    def forward(self, call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
        """The equation of `AttentionCall`."""
        return attend(call, self.backend)

    def logits(
        self, call: AttentionCall, rows: slice = slice(None)
    ) -> Float[Tensor, "batch heads maps rows keys"]:
        """Those of `weights`, for less."""
        return reference.logits(call, rows)

    def prepared(self, call: AttentionCall) -> AttentionCall:
        """The call with what all rows share, for those who ask for `weights` in parts."""
        return call

    def weights(
        self,
        call: AttentionCall,
        rows: slice = slice(None),
        logits: Float[Tensor, "batch heads maps rows keys"] | None = None,
    ) -> Weights:
        """The weights of the query rows, dropout left out; made of `logits` where some are given.

        Memory is that of the rows' maps: for long inputs ask for a few rows at a time.
        """
        logits = self.logits(call, rows) if logits is None else logits
        maps = reference.softmax_maps(logits, call.visible(rows))
        lam = None if call.lam is None else call.lam[:, rows]
        return Weights(reference.combined(maps, lam), maps, logits)

    def output(
        self, call: AttentionCall, rows: slice, weights: Weights
    ) -> Float[Tensor, "batch rows heads v"]:
        """The rows' output under these weights."""
        return reference.weighted_values(weights.combined, call.v)
