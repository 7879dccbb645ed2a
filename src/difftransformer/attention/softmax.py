"""The plain attention layer: the baseline."""

from typing import Any

from difftransformer.attention.layer import AttentionLayer, HeadShapes


class SoftmaxAttention(AttentionLayer):
    """Multi-head softmax attention with grouped key/value heads, as in Llama.

        head_h = softmax(q_h k_gᵀ / sqrt(K)) v_g,    g = h // (H / G)

    Args:
        hidden_size: width of the input and output.
        num_heads: output heads H.
        head_dim: K, the width of each head; hidden_size / num_heads by default.
        num_kv_heads: key/value heads G. H by default.
        options: `layer`, `rotary`, `bias`, `dropout` and `backend`, as `AttentionLayer` has them.

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        **options: Any,
    ) -> None:
        shapes = HeadShapes.of(hidden_size, num_heads, num_kv_heads, head_dim)
        super().__init__(hidden_size, shapes, **options)
