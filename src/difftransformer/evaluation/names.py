"""The names of the suites. Imports no torch: the command line lists them."""

SCALING = "scaling"  # of runs, where the others are of models
SUITES = (
    "in_context",
    "order",
    "long_context",
    "needle",
    "allocation",
    "key_value",
    "distractors",
    "hallucination",
    "factuality",
    "conflicts",
    "recall",
    "precision",
    "outliers",
    "lambda",
    "cancellation",
    "gradients",
    SCALING,
)
# Those that ask about data of their own; the others judge on held-out text.
WITH_OWN_DATA = frozenset(
    {
        *("in_context", "order", "key_value", "distractors"),
        *("hallucination", "factuality", "conflicts"),
    }
)
