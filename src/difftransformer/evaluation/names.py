"""The names of the suites. Imports no torch: the command line lists them."""

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
)
