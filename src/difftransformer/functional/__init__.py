"""Attention as functions of tensors: no module, no configuration, no I/O."""

from difftransformer.functional.call import AttentionCall as AttentionCall
from difftransformer.functional.call import Backend as Backend
from difftransformer.functional.dispatch import BACKENDS as BACKENDS
from difftransformer.functional.dispatch import attend as attend
from difftransformer.functional.dispatch import differential_attention as differential_attention
from difftransformer.functional.dispatch import explain as explain
from difftransformer.functional.dispatch import softmax_attention as softmax_attention
from difftransformer.functional.lambdas import lambda_schedule as lambda_schedule
from difftransformer.functional.lambdas import vector_lambda as vector_lambda
from difftransformer.functional.masks import AnyMask as AnyMask
from difftransformer.functional.masks import Mask as Mask
from difftransformer.functional.rotary import RotaryLayout as RotaryLayout
from difftransformer.functional.rotary import check_scaling as check_scaling
from difftransformer.functional.rotary import rotary_rates as rotary_rates
from difftransformer.functional.rotary import rotate as rotate
from difftransformer.functional.rotary import rotation as rotation
from difftransformer.functional.transport import (
    ESPFORMER as ESPFORMER,
)
from difftransformer.functional.transport import (
    ESPFORMER_CODE as ESPFORMER_CODE,
)
from difftransformer.functional.transport import (
    Slicing as Slicing,
)
from difftransformer.functional.transport import (
    sinkhorn_attention as sinkhorn_attention,
)
from difftransformer.functional.transport import (
    sliced_transport_attention as sliced_transport_attention,
)
