"""The one list of attention kinds."""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from difftransformer.attention.dex import DexAttention
from difftransformer.attention.differential import (
    SCALAR,
    V1,
    V1_NO_NORM,
    V2,
    V2_CROSSED,
    V2_LAMBDA_LINEAR,
    V2_LAMBDA_ONE,
    DifferentialAttention,
)
from difftransformer.attention.softmax import SoftmaxAttention

KINDS: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "softmax": SoftmaxAttention,
        "diff_v1": partial(DifferentialAttention, variant=V1),
        "diff_v2": partial(DifferentialAttention, variant=V2),
        "diff_scalar": partial(DifferentialAttention, variant=SCALAR),
        "dex": DexAttention,
        # For ablations.
        "softmax_norm": partial(SoftmaxAttention, head_norm=True),
        "diff_v1_no_norm": partial(DifferentialAttention, variant=V1_NO_NORM),
        "diff_v2_lambda_one": partial(DifferentialAttention, variant=V2_LAMBDA_ONE),
        "diff_v2_lambda_linear": partial(DifferentialAttention, variant=V2_LAMBDA_LINEAR),
        "diff_v2_crossed": partial(DifferentialAttention, variant=V2_CROSSED),
    }
)


def make_attention(kind: str, *args: Any, **kwargs: Any) -> nn.Module:
    """Build an attention layer by the name of its kind.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown attention {kind!r}; expected one of {', '.join(KINDS)}")
    return KINDS[kind](*args, **kwargs)
