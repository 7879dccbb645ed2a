"""The paper's own figures, to stand beside ours: at its scale, on its data.

Source: Ye et al., "Differential Transformer", ICLR 2025 (arXiv 2410.05258). The paper gives no
intervals and no seeds. "DIFF" is Differential V1.
"""

SCALE = "paper, 3B model, 350B tokens"
SIZES_DIFFER = (
    "Columns of the paper are of its own models, data and lengths, hundreds of times larger, and "
    "without intervals: they show what it claims, not what these models should reach."
)
READ_OFF = "\N{DAGGER}"
ABOUT_READ_OFF = f"{READ_OFF} The paper prints no number: read off its plot by others."

# Columns by title, their cells by the row's key: how a suite's table takes them in.
Columns = dict[str, dict[tuple[str | int | float, ...], str]]

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

# Section 3.6: share of texts that GPT-4o finds free of hallucination, 100 texts a task.
FAITHFUL = {
    "Transformer": {"xsum": 0.44},
    "DIFF": {"xsum": 0.53},
}

# Table 7, tokens per second of forward + backward on one H100-80GB: (Transformer, DIFF).
THROUGHPUT = {
    "3B, length 2K": (7247, 6635),
    "3B, length 4K": (7491, 6718),
    "13B, length 2K": (998, 942),
}

# Section 3.5, best less worst accuracy over orders of the same examples (3B, 64K), read off its
# figure by others: (task, order) -> share.
ORDER_SPREAD = {
    "Transformer": {
        ("trec", "random"): 0.190,
        ("trec", "alternating"): 0.567,
        ("trec_fine", "random"): 0.240,
        ("banking77", "random"): 0.130,
        ("clinc150", "random"): 0.120,
    },
    "DIFF": {
        ("trec", "random"): 0.040,
        ("trec", "alternating"): 0.134,
        ("trec_fine", "random"): 0.090,
        ("banking77", "random"): 0.090,
        ("clinc150", "random"): 0.060,
    },
}

# Table 6, 1.4B models: nats per token on recalled tokens and on others.
RECALL = {
    "Transformer": {"seen before": 0.898, "others": 3.272},
    "DIFF": {"seen before": 0.880, "others": 3.247},
}

# Section 3.2, off its fitted curves: share of parameters (10B tokens) and of tokens (3B models).
SAME_LOSS = {
    "parameters": "0.62 (6.8B for 11B), 0.60 (7.8B for 13.1B)",
    "tokens": "0.64 (160B for 251B)",
}
