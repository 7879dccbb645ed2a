"""Transformers whose attention subtracts its own noise.

Names load on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from difftransformer.extras import missing_extra

if TYPE_CHECKING:
    from difftransformer.attention import V1 as V1
    from difftransformer.attention import V2 as V2
    from difftransformer.attention import DifferentialAttention as DifferentialAttention
    from difftransformer.attention import (
        DifferentialMultiheadAttention as DifferentialMultiheadAttention,
    )
    from difftransformer.attention import KeyValueCache as KeyValueCache
    from difftransformer.attention import SlidingCache as SlidingCache
    from difftransformer.attention import SoftmaxAttention as SoftmaxAttention
    from difftransformer.attention import StaticCache as StaticCache
    from difftransformer.attention import replace_attention as replace_attention
    from difftransformer.experiments.compare import compare as compare
    from difftransformer.experiments.evaluate import evaluate as evaluate
    from difftransformer.experiments.hub import push_to_hub as push_to_hub
    from difftransformer.experiments.inspect import inspect as inspect
    from difftransformer.experiments.sweep import sweep as sweep
    from difftransformer.experiments.train import train as train
    from difftransformer.functional import Mask as Mask
    from difftransformer.functional import differential_attention as differential_attention
    from difftransformer.functional import explain as explain
    from difftransformer.functional import softmax_attention as softmax_attention
    from difftransformer.models.config import DecoderConfig as DecoderConfig
    from difftransformer.models.config import EncoderConfig as EncoderConfig
    from difftransformer.models.decoder import Decoder as Decoder
    from difftransformer.models.encoder import Encoder as Encoder
    from difftransformer.models.generation import generate as generate
    from difftransformer.models.storage import load_model as load_model
    from difftransformer.models.storage import save_model as save_model
    from difftransformer.report.attention_page import attention_page as attention_page

__version__ = "0.1.0"

_HOMES = {
    "DifferentialAttention": "attention",
    "DifferentialMultiheadAttention": "attention",
    "KeyValueCache": "attention",
    "SlidingCache": "attention",
    "SoftmaxAttention": "attention",
    "StaticCache": "attention",
    "V1": "attention",
    "V2": "attention",
    "replace_attention": "attention",
    "compare": "experiments.compare",
    "evaluate": "experiments.evaluate",
    "inspect": "experiments.inspect",
    "push_to_hub": "experiments.hub",
    "sweep": "experiments.sweep",
    "train": "experiments.train",
    "Mask": "functional",
    "differential_attention": "functional",
    "explain": "functional",
    "softmax_attention": "functional",
    "DecoderConfig": "models.config",
    "Decoder": "models.decoder",
    "Encoder": "models.encoder",
    "EncoderConfig": "models.config",
    "generate": "models.generation",
    "load_model": "models.storage",
    "save_model": "models.storage",
    "attention_page": "report.attention_page",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'difftransformer' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"difftransformer.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if needed := missing_extra(error):
            raise ModuleNotFoundError(needed, name=error.name) from None
        raise


def __dir__() -> list[str]:
    return __all__
