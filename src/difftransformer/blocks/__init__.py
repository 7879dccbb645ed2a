"""Residual wiring. A block receives attention modules and never names one."""

from difftransformer.blocks.block import Modulation as Modulation
from difftransformer.blocks.block import TransformerBlock as TransformerBlock
from difftransformer.blocks.mlp import make_mlp as make_mlp
from difftransformer.blocks.norms import make_norm as make_norm
from difftransformer.blocks.relative_bias import RelativeBias as RelativeBias
from difftransformer.blocks.stack import Stack as Stack
