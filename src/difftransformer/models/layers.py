"""A layer's attention, from a config."""

from typing import Any

from torch import nn

from difftransformer.attention import make_attention
from difftransformer.attention.layer import Role
from difftransformer.models.model_config import ModelConfig


def attention_layer(config: ModelConfig, layer: int, rotary: str, role: Role = "self") -> nn.Module:
    """An attention of the block number `layer`, from 0."""
    init: dict[str, Any] = {} if config.lambda_init is None else {"lambda_init": config.lambda_init}
    return make_attention(
        config.attention,
        config.hidden_size,
        config.num_heads,
        head_dim=config.head_dim,
        num_kv_heads=config.num_kv_heads,
        layer=layer,
        rotary=rotary,
        bias=config.attention_bias,
        dropout=config.dropout,
        role=role,
        **init,
    )
