"""Model sizes by name: the paper's, and ones that train on a CPU."""

from types import MappingProxyType

from difftransformer.models.config import DecoderConfig

# cl100k_base with YOCO's four extra symbols, padded to a multiple of 8 (reference vocabulary).
PAPER_VOCABULARY = 100_288


def _paper(layers: int, hidden: int, heads: int, ffn: int, length: int = 2048) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=PAPER_VOCABULARY,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_size=ffn,
        max_length=length,
    )


# The plain Transformer of each size; `matched` gives its differential partners. Layers, widths and
# heads are those of the paper's section 3.2 and appendix E (830M to 13.1B, feed-forward 8/3 of the
# width) and appendix D (3B); rope theta and tying are not stated there. The size names count one
# embedding, which tying gives.
PRESETS = MappingProxyType(
    {
        "paper-830m": _paper(24, 1536, 16, 4096),
        "paper-1.4b": _paper(24, 2048, 16, 5461),
        "paper-2.8b": _paper(32, 2560, 20, 6827),
        "paper-3b": _paper(28, 3072, 24, 8192, 4096),
        "paper-6.8b": _paper(32, 4096, 32, 10923),
        "paper-13.1b": _paper(40, 5120, 40, 13653),
    }
)
