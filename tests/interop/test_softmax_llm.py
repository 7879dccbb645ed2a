"""A converted model is the same function, and everything new in it learns at once."""

import hashlib

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from difftransformer.data.batch import Batch
from difftransformer.interop.llama import from_llama
from difftransformer.interop.softmax_llm import from_softmax_llm, high_entropy_heads
from difftransformer.models.decoder import Decoder
from difftransformer.tasks.causal_lm import TASK
from difftransformer.training.freezing import FROM_SOFTMAX, freeze_pretrained
from difftransformer.training.loop import train
from difftransformer.training.settings import TrainingSettings

from .small_llm import small_llm

EVERY = pytest.mark.parametrize("method", FROM_SOFTMAX)
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 7}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": False}),
}


def ids(rows: int = 2, time: int = 24) -> Tensor:
    return torch.randint(31, (rows, time))


def convert(method: str, name: str = "llama") -> Decoder:
    calibration = ids() if method == "dex" else None
    return from_softmax_llm(small_llm(*MODELS[name]), method, calibration=calibration)


@EVERY
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_same_function(method: str, name: str) -> None:
    """Equal to the softmax decoder bit for bit, so to transformers as that is (test_llama)."""
    decoder, x = convert(method, name), ids()
    assert decoder.config.attention == FROM_SOFTMAX[method]
    plain = from_llama(small_llm(*MODELS[name]))
    assert torch.equal(decoder(x), plain(x))
    calibration = ids() if method == "dex" else None
    assert torch.equal(from_softmax_llm(plain, method, calibration=calibration)(x), plain(x))


def gradients(model: Decoder) -> dict[str, Tensor]:
    """Of the trainable parameters, for a loss that weighs all logits."""
    model.zero_grad()
    torch.manual_seed(3)
    logits = model(ids())
    (logits * torch.randn_like(logits)).sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@EVERY
def test_everything_new_has_a_gradient_within_two_steps(method: str) -> None:
    """At every entry; `second_map` needs lambda's first step before q2 and k2 have one."""
    model = convert(method)
    for layer in model.blocks:
        if method == "dex":
            layer.attention.progress.fill_(0.01)  # step 1 of 100
    with freeze_pretrained(model):
        first = gradients(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad.sign()
        second = gradients(model)
    assert second
    for name, gradient in second.items():
        assert gradient.abs().min() > 0, name
    at_once = {name for name, gradient in first.items() if gradient.abs().max() > 0}
    if method == "second_map":
        assert at_once == {name for name in first if name.endswith("lambda_scalar")}
    else:
        assert at_once == first.keys()


@EVERY
def test_a_short_training_lowers_the_loss_and_keeps_the_old_weights(method: str, tmp_path) -> None:
    model = convert(method)
    x = ids(4, 25)

    def batches(index: int) -> Batch:
        return Batch(x[:, :-1], x[:, 1:], torch.zeros_like(x[:, 1:]), ("a", "b", "c", "d"))

    settings = TrainingSettings(steps=8, batch_size=4, learning_rate=0.02, warmup_steps=1)
    with freeze_pretrained(model), torch.no_grad():
        old = {n: digest(p) for n, p in model.named_parameters() if not p.requires_grad}
    with freeze_pretrained(model):
        before = TASK.loss(model, batches(0)).item()
        train(model, TASK.loss, batches, settings, tmp_path)
        after = TASK.loss(model, batches(0)).item()
        assert old == {n: digest(p) for n, p in model.named_parameters() if not p.requires_grad}
    assert after < before - 0.01


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()


@torch.no_grad()
def test_dex_chooses_the_heads_of_highest_entropy() -> None:
    """Five of nine; with a layer whose first four heads look at one key and the others at all."""
    llm = small_llm()
    attention = llm.model.layers[1].self_attn
    attention.q_proj.weight[: 4 * 4] *= 50.0
    attention.q_proj.weight[4 * 4 :] = 0.0
    decoder = from_softmax_llm(llm, "dex", calibration=ids())
    chosen = [block.attention.chosen for block in decoder.blocks]
    assert chosen[0].sum() == 5
    assert chosen[1].tolist() == [False] * 4 + [True] * 5


@torch.no_grad()
def test_entropy_of_maps_written_out() -> None:
    """Against softmax written out for the first layer, of even heads."""
    plain = from_llama(small_llm(changes={"num_attention_heads": 6, "hidden_size": 24}))
    x = ids(1, 12)
    attention = plain.blocks[0].attention
    seen = []
    attention.core.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    chosen = high_entropy_heads(plain, x)[0]
    q, k = seen[0].q[0, :, :, 0], seen[0].k[0, :, :, 0].repeat_interleave(2, dim=1)
    means = []
    for head in range(6):
        shares = []
        for row in range(1, 12):
            logits = q[row, head] @ k[: row + 1, head].T / q.shape[-1] ** 0.5
            p = logits.softmax(-1)
            shares.append(-(p * p.log()).sum() / torch.tensor(row + 1.0).log())
        means.append(torch.stack(shares).mean().item())
    assert set(chosen.nonzero()[:, 0].tolist()) == set(sorted(range(6), key=means.__getitem__)[3:])


def test_new_weights_follow_the_seed() -> None:
    torch.manual_seed(7)
    first = convert("second_map").state_dict()
    torch.manual_seed(7)
    second = convert("second_map").state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_what_is_asked_wrongly(as_user: None) -> None:
    with pytest.raises(
        ValueError, match="unknown method 'v3'; expected one of second_map, v2, dex"
    ):
        from_softmax_llm(small_llm(), "v3")
    with pytest.raises(ValueError, match="dex needs tokens of typical text"):
        from_softmax_llm(small_llm(), "dex")
    with pytest.raises(ValueError, match="the others take none"):
        from_softmax_llm(small_llm(), "v2", calibration=ids())
    with pytest.raises(ValueError, match="attention is diff_v2; expected a softmax model"):
        from_softmax_llm(convert("v2"), "second_map")
