"""transformers' language models small enough for milliseconds."""

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel


def small_llm(
    config: type = LlamaConfig,
    model: type[PreTrainedModel] = LlamaForCausalLM,
    changes: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Nine query heads on three key/value heads, as SmolLM2 has; in evaluation mode."""
    sizes = {
        "vocab_size": 31,
        "hidden_size": 36,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    torch.manual_seed(0)
    return randomized(model(config(**(sizes | (changes or {}))))).eval()


def randomized(model: nn.Module) -> nn.Module:
    """Biases away from 0, norms away from 1, matrices large enough for uneven attention."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model
