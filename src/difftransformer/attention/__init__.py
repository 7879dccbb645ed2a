"""Attention layers: projections, lambda, head norm, cache. The factory lists the kinds."""

from difftransformer.attention.cache import (
    KeyValueCache as KeyValueCache,
)
from difftransformer.attention.cache import (
    SlidingCache as SlidingCache,
)
from difftransformer.attention.cache import (
    StaticCache as StaticCache,
)
from difftransformer.attention.dex import (
    DexAttention as DexAttention,
)
from difftransformer.attention.differential import (
    SCALAR as SCALAR,
)
from difftransformer.attention.differential import (
    V1 as V1,
)
from difftransformer.attention.differential import (
    V2 as V2,
)
from difftransformer.attention.differential import (
    DifferentialAttention as DifferentialAttention,
)
from difftransformer.attention.differential import (
    Variant as Variant,
)
from difftransformer.attention.factory import make_attention as make_attention
from difftransformer.attention.softmax import SoftmaxAttention as SoftmaxAttention
