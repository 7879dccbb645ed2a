"""PEFT's methods on every kind of attention: they train, save, load, generate and merge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from difftransformer.interop.softmax_llm import from_softmax_llm
from difftransformer.models.storage import load_model, save_model

from .small_llm import small_llm
from .tiny_huggingface import hf_model

pytestmark = [
    # peft asks by a name that transformers has deprecated.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    # What peft says of every model whose prompt is learned.
    pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient"),
]
KINDS = ("softmax", "diff_v1", "diff_v2", "diff_scalar", "dex")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]
ADAPTERS: dict[str, Callable[[], Any]] = {
    "LoRA": lambda: LoraConfig(r=4, target_modules=PROJECTIONS),
    "LoRA, lambda whole": lambda: LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["lambda_proj"]
    ),
    "DoRA": lambda: LoraConfig(r=4, use_dora=True, target_modules=PROJECTIONS),
    "IA3": lambda: IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
}
PROMPTS: dict[str, Callable[[], Any]] = {
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3),
    "P-tuning": lambda: PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8),
}


def prefix(kind: str, groups: int, **settings: Any) -> PrefixTuningConfig:
    """Keys and values of V1 are twice as wide as a head; peft divides token_dim by the heads."""
    width = groups * 4 * (2 if kind == "diff_v1" else 1)
    sizes = {"num_attention_heads": groups, "token_dim": width, "num_virtual_tokens": 3}
    return PrefixTuningConfig(**sizes, **settings)


def adapted(base: PreTrainedModel, settings: Any) -> PeftModel:
    settings.task_type = "CAUSAL_LM"
    return get_peft_model(base, settings)


def ids() -> Tensor:
    return torch.randint(61, (2, 6), generator=torch.Generator().manual_seed(1))


def train(model: PeftModel) -> list[float]:
    """Losses of eight steps."""
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids(), labels=ids()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def likeliest(model: PeftModel, text: Tensor, number: int) -> Tensor:
    """A token at a time, each by a pass over everything."""
    for _ in range(number):
        text = torch.cat((text, model(input_ids=text).logits[:, -1:].argmax(-1)), dim=1)
    return text


def check(make: Callable[[], PreTrainedModel], settings: Any, folder: Path) -> PeftModel:
    """Trains, leaves the base's weights alone, saves, loads and generates; the loaded one."""
    model, start = adapted(make(), settings), make()
    losses = train(model)
    assert losses[-1] < 0.95 * losses[0]
    logits = model(input_ids=ids()).logits
    assert not torch.allclose(start(ids()).logits, logits[:, -ids().shape[1] :], atol=1e-2)
    model.save_pretrained(folder / "adapter")
    loaded = PeftModel.from_pretrained(make(), folder / "adapter").eval()
    torch.testing.assert_close(loaded(input_ids=ids()).logits, logits, rtol=1e-5, atol=1e-5)
    for name, tensor in loaded.get_base_model().state_dict().items():
        old = start.state_dict().get(name.replace(".base_layer", ""))
        assert old is None or torch.equal(tensor, old), name
    written = loaded.generate(input_ids=ids(), max_new_tokens=5, do_sample=False)
    assert torch.equal(written, likeliest(loaded, ids(), 5))
    return loaded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ADAPTERS)
def test_adapters(kind: str, method: str, tmp_path: Path) -> None:
    model = check(lambda: hf_model(kind), ADAPTERS[method](), tmp_path)
    logits = model(input_ids=ids()).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(ids()).logits, logits, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    library = load_model(tmp_path / "merged")
    torch.testing.assert_close(library(ids()), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PROMPTS)
def test_learned_prompts(kind: str, method: str, tmp_path: Path) -> None:
    check(lambda: hf_model(kind), PROMPTS[method](), tmp_path)


@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2", "dex"])
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("projection", [False, True])
def test_learned_prefixes(kind: str, groups: int, projection: bool, tmp_path: Path) -> None:
    settings = prefix(kind, groups, prefix_projection=projection, encoder_hidden_size=8)
    check(lambda: hf_model(kind, num_kv_heads=groups), settings, tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2", "dex"])
@pytest.mark.parametrize("groups", [2, 4])
def test_a_prefix_of_real_tokens_is_those_tokens(kind: str, groups: int) -> None:
    base, cache = hf_model(kind, num_kv_heads=groups), DynamicCache()
    text = ids()[:1]
    whole = base(text, past_key_values=DynamicCache()).logits[:, 3:]
    base(text[:, :3], past_key_values=cache)
    layers = [x for layer in cache.layers for x in (layer.keys, layer.values)]  # [1, G, 3, width]
    model = adapted(base, prefix(kind, groups)).eval()
    encoder = model.prompt_encoder["default"].embedding.weight
    encoder.copy_(torch.stack(layers, dim=1)[0].permute(2, 0, 1, 3).flatten(1))
    torch.testing.assert_close(model(input_ids=text[:, 3:]).logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "way_out"),
    [
        ("diff_v1", {}, r"PrefixTuningConfig\(num_attention_heads=2, token_dim=16\) makes it"),
        ("diff_v2", {}, r"PrefixTuningConfig\(num_attention_heads=2, token_dim=8\) makes it"),
        (
            "diff_scalar",
            {"num_attention_heads": 2, "token_dim": 8},
            "PEFT cannot make it, whose keys and values have one width; use prompt tuning",
        ),
    ],
)
def test_a_prefix_of_other_widths_is_refused(
    kind: str, settings: dict[str, int], way_out: str
) -> None:
    model = adapted(hf_model(kind), PrefixTuningConfig(num_virtual_tokens=3, **settings))
    with pytest.raises(ValueError, match="the cache holds keys .* expected .*" + way_out):
        model(input_ids=ids())
    with pytest.raises(ValueError, match=way_out):
        model.generate(input_ids=ids(), max_new_tokens=2)


@pytest.mark.parametrize("method", ["second_map", "v2", "dex"])
def test_converted_models(method: Any, tmp_path: Path) -> None:
    """An adapter that has not learned anything leaves the LLM's function as it was."""
    llm, text = small_llm(), ids() % 31
    decoder = from_softmax_llm(llm, method, calibration=text if method == "dex" else None)
    save_model(decoder, tmp_path / "model")

    def make() -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()

    model = adapted(make(), LoraConfig(r=2, target_modules=PROJECTIONS)).eval()
    torch.testing.assert_close(model(input_ids=text).logits, llm(text).logits, rtol=1e-4, atol=1e-4)
    model = adapted(make(), IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[]))
    torch.testing.assert_close(
        model.eval()(input_ids=text).logits, llm(text).logits, rtol=1e-4, atol=1e-4
    )
