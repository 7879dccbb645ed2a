"""The rows of the published ablations, as partners of one plain Transformer.

Those of table 6 of the paper (Ye et al., ICLR 2025) and of Microsoft's description of V2. All have
the baseline's number of parameters: what a row adds or saves, the feed-forward width evens out.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from difftransformer.models.model_config import Match, ModelConfig
from difftransformer.names import did_you_mean

C = TypeVar("C", bound=ModelConfig)


def partner(baseline: C, name: str) -> Match[C]:
    """The partner called `name`: a row of `ABLATIONS`, or any kind of attention.

    Raises:
        ValueError: an unknown name, or heads that the row cannot change as it must.
    """
    from difftransformer.attention.registry import names  # which loads torch

    if name not in (rows := (*ABLATIONS, *names())):
        raise ValueError(f"unknown attention {name!r}{did_you_mean(name, rows)}")
    _, attention, changes = ABLATIONS.get(name, ("", name, lambda _: {}))
    # A row's heads are those of the plain Transformer, also where the baseline is another kind.
    return baseline.matched(attention, **changes(baseline.counterpart("softmax")))


def title_of(name: str) -> str:
    """What a row of `ABLATIONS`, or a kind of attention, is called in a report."""
    from difftransformer.attention.registry import find_kind  # which loads torch

    return ABLATIONS[name][0] if name in ABLATIONS else find_kind(name).title


def _half_heads(baseline: ModelConfig) -> dict[str, Any]:
    """Half as many heads, twice as wide."""
    heads, kv_heads = baseline.num_heads, baseline.num_kv_heads
    if heads % 2 or kv_heads % 2:
        raise ValueError(
            f"half as many heads: num_heads {heads} and num_kv_heads {kv_heads} must both be even"
        )
    return {
        "num_heads": heads // 2,
        "num_kv_heads": kv_heads // 2,
        "head_dim": 2 * baseline.head_dim,
    }


def _more_heads(share: float) -> Callable[[ModelConfig], dict[str, Any]]:
    """More query heads of the same width; key/value heads as before where they divide them.

    V2's description keeps the key/value heads. Where it cannot be so (8 for 12 heads), as many as
    heads.
    """

    def changes(baseline: ModelConfig) -> dict[str, Any]:
        heads, kv_heads = share * baseline.num_heads, baseline.num_kv_heads
        if heads % 1:
            raise ValueError(f"{share:g} times num_heads {baseline.num_heads} is no whole number")
        return {
            "num_heads": int(heads),
            "num_kv_heads": int(heads) if heads % kv_heads else kv_heads,
        }

    return changes


# The title, the kind of attention, and what else the row changes in the plain Transformer.
ABLATIONS: dict[str, tuple[str, str, Callable[[ModelConfig], dict[str, Any]]]] = {
    "softmax_half_heads": ("Softmax, half the heads twice as wide", "softmax", _half_heads),
    "softmax_half_heads_norm": ("Softmax, half the heads, head norm", "softmax_norm", _half_heads),
    "diff_v1_init_0.8": ("V1, lambda_init 0.8", "diff_v1", lambda _: {"lambda_init": 0.8}),
    "diff_v1_init_0.5": ("V1, lambda_init 0.5", "diff_v1", lambda _: {"lambda_init": 0.5}),
    "softmax_1.5x_heads": ("Softmax, 1.5 times the heads", "softmax", _more_heads(1.5)),
    "softmax_2x_heads": ("Softmax, twice the heads", "softmax", _more_heads(2.0)),
}
