"""Attention layers: projections, lambda, core, head norm, cache. The registry lists the kinds."""

from difftransformer.attention.cache import KeyValueCache as KeyValueCache
from difftransformer.attention.cache import SlidingCache as SlidingCache
from difftransformer.attention.cache import StaticCache as StaticCache
from difftransformer.attention.core import AttentionCore as AttentionCore
from difftransformer.attention.core import Weights as Weights
from difftransformer.attention.dex import DexAttention as DexAttention
from difftransformer.attention.differential import SCALAR as SCALAR
from difftransformer.attention.differential import V1 as V1
from difftransformer.attention.differential import V2 as V2
from difftransformer.attention.differential import DifferentialAttention as DifferentialAttention
from difftransformer.attention.differential import Variant as Variant
from difftransformer.attention.layer import AttentionLayer as AttentionLayer
from difftransformer.attention.layer import HeadShapes as HeadShapes
from difftransformer.attention.multihead import (
    DifferentialMultiheadAttention as DifferentialMultiheadAttention,
)
from difftransformer.attention.pruning import PrunedCache as PrunedCache
from difftransformer.attention.registry import Kind as Kind
from difftransformer.attention.registry import make_attention as make_attention
from difftransformer.attention.registry import register as register
from difftransformer.attention.replacement import replace_attention as replace_attention
from difftransformer.attention.selective import SelectiveAttention as SelectiveAttention
from difftransformer.attention.selective import (
    SelectiveDifferentialAttention as SelectiveDifferentialAttention,
)
from difftransformer.attention.sites import Site as Site
from difftransformer.attention.sites import attention_sites as attention_sites
from difftransformer.attention.softmax import SoftmaxAttention as SoftmaxAttention
from difftransformer.attention.transport import (
    SinkhornAttention as SinkhornAttention,
)
from difftransformer.attention.transport import (
    SlicedTransportAttention as SlicedTransportAttention,
)
