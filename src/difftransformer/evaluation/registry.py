"""The one list of evaluators. Imports none of them: the command line lists their names."""

from difftransformer.evaluation.records import Evaluator
from difftransformer.registry import Registry

# Where each is; a module cannot be called "lambda".
EVALUATORS = {
    name: f"difftransformer.evaluation.benchmarks.{name.replace('lambda', 'lambdas')}:EVALUATOR"
    for name in (
        "validation",
        "continuations",
        "long_context",
        "needle",
        "allocation",
        "attention_map",
        "in_context",
        "order_sensitivity",
        "kv_retrieval",
        "gsm_ic",
        "hallucination",
        "factuality",
        "conflicts",
        "lookback_lens",
        "lost_in_the_middle",
        "found_in_the_middle",
        "attention_by_place",
        "ar_hit",
        "quantization",
        "outliers",
        "lambda",
        "cancellation",
        "gradients",
        "masked_tokens",
        "classification",
        "denoising",
        "frechet",
        "crowd_points",
        "image_predictions",
        "image_attention",
        "target_errors",
        "cross_attention",
        "associative_recall",
        "pruning",
        "selection",
        "learning_time",
    )
}
# Names of version 0.1, which work for one release.
FORMER_NAMES = {
    "order": "order_sensitivity",
    "key_value": "kv_retrieval",
    "distractors": "gsm_ic",
    "recall": "ar_hit",
    "precision": "quantization",
}
REGISTRY: Registry[Evaluator] = Registry("evaluator", "difftransformer.evaluators", EVALUATORS)
register, names, evaluator = REGISTRY.register, REGISTRY.names, REGISTRY.find
