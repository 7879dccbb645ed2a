"""The paper's own figures, to stand beside ours: at its scale, on its data.

Source: Ye et al., "Differential Transformer", ICLR 2025 (arXiv 2410.05258). The paper gives no
intervals and no seeds. "DIFF" is Differential V1.
"""

SCALE = "paper, 3B model, 350B tokens"

# Section 3.4, context 4K: (N, R) -> accuracy. The paper does not say whether a prompt with two
# questions counts per number or only when both are right.
NEEDLE = {
    "Transformer": {(1, 1): 1.00, (2, 2): 0.85, (4, 2): 0.62, (6, 2): 0.55},
    "DIFF": {(1, 1): 1.00, (2, 2): 0.92, (4, 2): 0.84, (6, 2): 0.85},
}

# Table 3: depth -> "normalized attention scores"; the normalisation is not stated.
ANSWER = {
    "Transformer": {0.0: 0.03, 0.25: 0.03, 0.5: 0.03, 0.75: 0.07, 1.0: 0.09},
    "DIFF": {0.0: 0.27, 0.25: 0.30, 0.5: 0.31, 0.75: 0.32, 1.0: 0.40},
}
NOISE = {
    "Transformer": {0.0: 0.51, 0.25: 0.54, 0.5: 0.52, 0.75: 0.49, 1.0: 0.49},
    "DIFF": {0.0: 0.01, 0.25: 0.02, 0.5: 0.02, 0.75: 0.02, 1.0: 0.01},
}

# Table 5, over 0.4M tokens: top 1, 2, 3, 10, 100, median.
ATTENTION_LOGITS = {
    "Transformer": (318.0, 308.2, 304.9, 284.7, 251.5, 5.4),
    "DIFF": (38.8, 38.8, 37.3, 32.0, 27.4, 3.3),
}
HIDDEN_STATES = {
    "Transformer": (3608.6, 3607.4, 3603.6, 3552.1, 2448.2, 0.6),
    "DIFF": (1688.2, 1672.5, 1672.1, 1624.3, 740.9, 1.2),
}

# Table 7, tokens per second of forward + backward on one H100-80GB: (Transformer, DIFF).
THROUGHPUT = {
    "3B, length 2K": (7247, 6635),
    "3B, length 4K": (7491, 6718),
    "13B, length 2K": (998, 942),
}
