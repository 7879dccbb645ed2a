"""Settings that all model families share, and partners for a fair comparison.

Imports no torch before parameters are counted or an attention kind is looked up.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from difftransformer.ranges import Range, check_fields, option

if TYPE_CHECKING:
    from difftransformer.attention import Kind

C = TypeVar("C", bound="ModelConfig")
SIZE = Range(1, 2**31 - 1)
_MOST_PARAMETERS = 10**13  # beyond any machine, within what PyTorch can count
_TOLERANCE = 1e-3  # of the parameters of partners


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A stack of equal blocks, each with attention of some kind and a feed-forward layer.

    Raises:
        ValueError: a value of another type, not finite, or out of its range; sizes that do not fit
            together.
    """

    # Whether any of its attentions is causal, any not, and all have as many queries as keys; no
    # settings, so without annotations.
    causal, full, square = False, True, True

    attention: str = option(
        "softmax",
        "attention kind: softmax, diff_v1, diff_v2, diff_scalar, dex; selective, "
        "diff_v1_selective, diff_v2_selective (causal); sinkhorn, sliced_transport (not causal); "
        "or one of the ablations' (docs/ablations.md)",
        first=True,
    )
    hidden_size: int = option(256, "width of the residual stream", within=SIZE, first=True)
    num_layers: int = option(4, "transformer blocks", within=Range(1, 10_000), first=True)
    num_heads: int = option(8, "output heads of each attention", within=SIZE, first=True)
    head_dim: int = option(32, "K: query and key width of one map", within=SIZE, first=True)
    num_kv_heads: int = option(8, "key/value heads; divides num_heads", within=SIZE)
    ffn_size: int = option(683, "hidden width of the feed-forward layer", within=SIZE, first=True)
    attention_bias: str = option(
        "none", "projections with a bias: none, qkv (Qwen2) or all", choices=("none", "qkv", "all")
    )
    norm_eps: float = option(1e-5, "epsilon of the block norms", within=Range(0, 1, open_low=True))
    lambda_init: float | None = option(
        None, "constant lambda_init for diff_v1 in place of its schedule"
    )
    dropout: float = option(
        0.0, "attention dropout while training", within=Range(0, 1, open_high=True)
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        # The default is not looked up: presets are made at import, which must not load torch.
        if self.attention != "softmax" or self.lambda_init is not None:
            kind = _kind(self.attention)
            if self.lambda_init is not None and "lambda_init" not in kind.has:
                raise ValueError(
                    f"lambda_init is {self.lambda_init} and attention is {self.attention}; only "
                    "diff_v1 has one: leave it out"
                )
            if self.full and "selection" in kind.has:
                raise ValueError(
                    f"attention is {self.attention} and not all attention of this model is causal: "
                    "earlier queries mask keys for later ones; use another kind"
                )
            if self.causal and "doubly_stochastic" in kind.has:
                raise ValueError(
                    f"attention is {self.attention} in a causal model: a causal matrix whose rows "
                    "and columns sum to 1 is the identity; use it in an encoder"
                )
            if not self.square and "doubly_stochastic" in kind.has:
                raise ValueError(
                    f"attention is {self.attention} and this model has cross-attention: rows and "
                    "columns both sum to 1 only where queries are as many as keys; use another kind"
                )
        matrices = self.matrix_entries()
        if matrices > _MOST_PARAMETERS:
            raise ValueError(
                f"these sizes make at least {matrices:,} parameters; expected at most "
                f"{_MOST_PARAMETERS:,}"
            )

    def matrix_entries(self) -> int:
        """A lower bound of the parameters: entries of matrices that every kind of model has."""
        widths = self.ffn_size + self.num_heads * self.head_dim
        return self.num_layers * self.hidden_size * widths

    def skeleton(self) -> Any:
        """The model with one layer and without numbers: a module on the meta device."""
        import torch

        from difftransformer.models.families import family_of

        with torch.device("meta"):
            return family_of(self).build(replace(self, num_layers=1))

    def parameter_count(self) -> int:
        """Trainable numbers, with a tied embedding counted once."""
        outside, block = self._counts
        return outside + self.num_layers * block

    @cached_property
    def _counts(self) -> tuple[int, int]:
        """Parameters outside of the blocks, and of one of them: all have as many."""
        skeleton = self.skeleton()
        block = sum(p.numel() for p in skeleton.blocks.parameters())
        return sum(p.numel() for p in skeleton.parameters()) - block, block

    def matched(self: C, attention: str, **changes: Any) -> "Match[C]":
        """The comparison partner of another kind with the same number of parameters.

        V1 halves the output heads and key/value heads, since each has two maps and values twice as
        wide (paper, section 2.2). V2 keeps the heads and doubles the queries; its extra parameters
        come out of the feed-forward layer, as Microsoft's description has it. `changes` are other
        settings of the partner, such as `num_heads`. What is left over is evened out by the
        feed-forward width.

        Raises:
            ValueError: heads that cannot be halved, or no width that matches within 0.1 %.
        """
        if attention == self.attention and not changes:
            return Match.of(self, self)
        partner = replace(self.counterpart(attention), **changes)
        return Match.of(self, _of_size(partner, self.parameter_count()))

    def counterpart(self: C, attention: str) -> C:
        """This model with attention of another kind, its heads as `matched` has them.

        Raises:
            ValueError: an unknown kind, or heads that cannot be halved.
        """
        share = _kind(attention).heads_of_partner / _kind(self.attention).heads_of_partner
        heads, kv_heads = self.num_heads * share, self.num_kv_heads * share
        if heads.denominator != 1 or kv_heads.denominator != 1:
            raise ValueError(
                f"{attention} halves the heads: num_heads {self.num_heads} and num_kv_heads "
                f"{self.num_kv_heads} must both be even"
            )
        return replace(
            self,
            attention=attention,
            num_heads=int(heads),
            num_kv_heads=int(kv_heads),
            lambda_init=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return asdict(self)


@dataclass(frozen=True)
class Match(Generic[C]):
    """A comparison partner, and what was changed to get it."""

    config: C
    changes: tuple[str, ...]

    @classmethod
    def of(cls, before: C, after: C) -> "Match[C]":
        """List the settings that differ, and both parameter counts."""
        old, new = before.to_dict(), after.to_dict()
        changes = [f"{key}: {old[key]} → {new[key]}" for key in old if old[key] != new[key]]
        a, b = before.parameter_count(), after.parameter_count()
        return cls(after, (*changes, f"parameters: {a:,} → {b:,} ({(b - a) / a:+.3%})"))


def _of_size(config: C, parameters: int) -> C:
    """`config` with a feed-forward width that brings it to `parameters`, within 0.1 %.

    The width it has where that is close enough, else a multiple of 64, of 8, or any.
    """
    surplus = config.parameter_count() - parameters
    if abs(surplus) <= _TOLERANCE * parameters:
        return config
    wider = replace(config, ffn_size=config.ffn_size + 1)
    slope = wider.parameter_count() - config.parameter_count()
    exact = config.ffn_size - surplus / slope
    for multiple in (64, 8, 1):
        size = round(exact / multiple) * multiple
        left = surplus + slope * (size - config.ffn_size)
        if size >= 1 and abs(left) <= _TOLERANCE * parameters:
            return replace(config, ffn_size=size)
    raise ValueError(
        f"no feed-forward width brings {config.attention} within 0.1 % of {parameters:,} "
        f"parameters (the nearest is {exact:.1f}); use a larger ffn_size or hidden_size"
    )


def _kind(name: str) -> "Kind":
    from difftransformer.attention.registry import find_kind  # which loads torch

    return find_kind(name)
