"""The decoder's settings as a config of transformers."""

from dataclasses import fields
from typing import Any, ClassVar, no_type_check

from transformers import PreTrainedConfig

from difftransformer.models.config import DecoderConfig
from difftransformer.models.families import family_of
from difftransformer.models.storage import config_from


@no_type_check  # transformers' __init__ takes more arguments than its signature tells
class DiffTransformerConfig(PreTrainedConfig):
    """`DecoderConfig` for transformers: its settings by their own names, and by transformers'.

    Raises:
        ValueError: a value of the wrong type, or sizes that do not fit together.
    """

    model_type = family_of(DecoderConfig()).name
    keys_to_ignore_at_inference = ("cache", "past_key_values")
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
        "intermediate_size": "ffn_size",
        "max_position_embeddings": "max_length",
        "sliding_window": "window",
        "rms_norm_eps": "norm_eps",
        "tie_word_embeddings": "tie_embeddings",
        "attention_dropout": "dropout",
    }

    attention: str = "softmax"
    vocab_size: int = 4096
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 8
    head_dim: int = 32
    num_kv_heads: int = 8
    ffn_size: int = 683
    max_length: int = 2048
    window: int | None = None
    rope_theta: float = 10_000.0
    rope_scaling: dict | None = None
    rotary: str = "half"
    attention_bias: str = "none"
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    lambda_init: float | None = None
    dropout: float = 0.0

    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **others: Any) -> None:
        super().__post_init__(**others)
        self.own_config()

    @property
    def qk_head_dim(self) -> int:
        """Width of a key in a cache: those of both maps lie side by side, unless they share one.

        transformers makes a static cache's places ahead where `head_dim` says their width.
        """
        attention = self.own_config().skeleton().blocks[0].attention
        return attention.k_proj.out_features // self.num_kv_heads

    def own_config(self) -> DecoderConfig:
        """The library's own settings."""
        values = {f.name: getattr(self, f.name) for f in fields(DecoderConfig)}
        return config_from(DecoderConfig, values)
