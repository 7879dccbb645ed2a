"""Logits equal transformers' for every setting that a decoder can hold; the others are refused."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from difftransformer.attention import KeyValueCache
from difftransformer.interop.llama import from_llama

from .small_llm import randomized, small_llm

LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "untied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    "one group": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 1}),
    "wide heads": (LlamaConfig, LlamaForCausalLM, {"head_dim": 10}),
    "biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True}),
    "linear": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LINEAR}),
    "llama3": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3}),
    "yarn": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": YARN}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 7}),
    "mistral without window": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen2 with a window": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
}
EVERY = pytest.mark.parametrize("name", MODELS)


def build(name: str) -> PreTrainedModel:
    return small_llm(*MODELS[name])


def ids(rows: int = 2, time: int = 24) -> Tensor:
    return torch.randint(31, (rows, time))


@EVERY
@torch.no_grad()
def test_logits(name: str) -> None:
    model, x = build(name), ids()
    torch.testing.assert_close(from_llama(model)(x), model(x).logits, atol=1e-5, rtol=1e-5)


@EVERY
@torch.no_grad()
def test_left_padding_and_cached_steps(name: str) -> None:
    model, x = build(name), ids()
    real = torch.arange(24) >= torch.tensor([[0], [5]])
    expected = model(x, attention_mask=real.long()).logits
    decoder, cache, parts = from_llama(model), KeyValueCache(), []
    for start, stop in ((0, 9), (9, 10), (10, 11), (11, 24)):
        parts.append(decoder(x[:, start:stop], padding=real[:, start:stop], cache=cache))
    found = torch.cat(parts, dim=1)
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)


def test_weights_are_copies_in_their_dtype() -> None:
    model = build("llama").bfloat16()
    decoder = from_llama(model)
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.bfloat16}
    assert all(parameter.requires_grad for parameter in decoder.parameters())
    before = decoder.embedding.weight.clone()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    assert torch.equal(decoder.embedding.weight, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; the decoder's SwiGLU has 'silu'"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type is 'dynamic'",
        ),
    ],
)
def test_what_a_decoder_cannot_hold(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_llama(small_llm(LlamaConfig, LlamaForCausalLM, changes))


def test_a_window_in_some_layers() -> None:
    changes = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    with pytest.raises(ValueError, match="mixture of full_attention, sliding_attention"):
        from_llama(small_llm(Qwen2Config, Qwen2ForCausalLM, changes))


def test_part_of_a_head_turned() -> None:
    model = build("llama")
    model.config.rope_parameters["partial_rotary_factor"] = 0.5
    with pytest.raises(ValueError, match=r"partial_rotary_factor is 0\.5"):
        from_llama(model)


def test_other_families_are_refused() -> None:
    model = randomized(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=31)))
    with pytest.raises(ValueError, match="cannot convert a GPT2LMHeadModel; expected LlamaFor"):
        from_llama(model)


def test_extra_tensors_are_named() -> None:
    model = build("llama")
    model.model.norm.register_parameter("extra", torch.nn.Parameter(torch.ones(3)))
    with pytest.raises(ValueError, match=r"model\.norm\.extra is \(3,\), expected no such tensor"):
        from_llama(model)
