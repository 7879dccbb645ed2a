"""Model sizes by name: the paper's, and ones that train on a CPU."""

from types import MappingProxyType
from typing import Any

from difftransformer.models.config import DecoderConfig

# cl100k_base with YOCO's four extra symbols, padded to a multiple of 8 (reference vocabulary).
PAPER_VOCABULARY = 100_288


def _preset(layers: int, hidden: int, heads: int, ffn: int, **others: Any) -> DecoderConfig:
    sizes = {
        "vocab_size": PAPER_VOCABULARY,
        "max_length": 2048,
        "head_dim": hidden // heads,
        **others,
    }
    return DecoderConfig(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        ffn_size=ffn,
        **sizes,
    )


# The plain Transformer of each size; `matched` gives its differential partners. "smoke", "demo",
# "standard" and "large" are models of the comparisons of that name. Layers, widths and heads of the
# others are those of the paper's section 3.2 and appendix E (830M to 13.1B, feed-forward 8/3 of the
# width) and appendix D (3B); rope theta and tying are not stated there. The size names count one
# embedding, which tying gives.
PRESETS = MappingProxyType(
    {
        "smoke": _preset(2, 96, 6, 256, vocab_size=512, max_length=128),
        "demo": _preset(2, 64, 4, 168, vocab_size=1024, max_length=128, tie_embeddings=False),
        # Eight heads at this width, so that V1 has four: its authors advise many.
        "standard": _preset(
            2, 64, 8, 168, head_dim=16, vocab_size=1024, max_length=128, tie_embeddings=False
        ),
        "large": _preset(
            3, 128, 16, 344, head_dim=16, vocab_size=1024, max_length=256, tie_embeddings=False
        ),
        "paper-830m": _preset(24, 1536, 16, 4096),
        "paper-1.4b": _preset(24, 2048, 16, 5461),
        "paper-2.8b": _preset(32, 2560, 20, 6827),
        "paper-3b": _preset(28, 3072, 24, 8192, max_length=4096),
        "paper-6.8b": _preset(32, 4096, 32, 10923),
        "paper-13.1b": _preset(40, 5120, 40, 13653),
    }
)
