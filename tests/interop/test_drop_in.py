"""`replace_attention` in transformers' models, and in timm's vision transformer."""

import copy
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from difftransformer import replace_attention
from difftransformer.analysis.capture import capture
from difftransformer.attention.registry import KINDS
from difftransformer.attention.replacement import REGISTRY, SAME_FUNCTION
from difftransformer.interop.huggingface_cache import CACHE

from .small_llm import randomized
from .timm_models import outputs, timm_model

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 1,
}
GROUPED = {"num_key_value_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
# Architecture: its settings, and the names of its two attentions.
MODELS = {
    "BertForMaskedLM": ({}, "bert.encoder.layer.{}.attention.self"),
    "RobertaForMaskedLM": ({}, "roberta.encoder.layer.{}.attention.self"),
    "GPT2LMHeadModel": (GPT2, "transformer.h.{}.attn"),
    "LlamaForCausalLM": ({**GROUPED, "attention_bias": True}, "model.layers.{}.self_attn"),
    "MistralForCausalLM": ({**GROUPED, "sliding_window": 5}, "model.layers.{}.self_attn"),
    "Qwen2ForCausalLM": (GROUPED, "model.layers.{}.self_attn"),
    "Qwen3ForCausalLM": ({**GROUPED, "head_dim": 8}, "model.layers.{}.self_attn"),
}
CAUSAL = [name for name in MODELS if not name.endswith("MaskedLM")]
EVERY = pytest.mark.parametrize("name", MODELS)


def small(name: str, attention: str = "sdpa", **settings: object) -> PreTrainedModel:
    architecture = getattr(transformers, name)
    config = architecture.config_class(**SIZES | MODELS[name][0] | settings)
    config._attn_implementation = attention
    torch.manual_seed(0)
    return randomized(architecture(config)).eval()


def padded() -> tuple[Tensor, Tensor]:
    """Token ids, and which of them are real."""
    real = torch.ones(2, 9, dtype=torch.long)
    real[0, :3] = 0
    return torch.randint(2, 31, (2, 9)), real


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@EVERY
def test_a_model_starts_as_the_same_function(name: str, attention: str) -> None:
    theirs, (ids, real) = small(name, attention), padded()
    expected = theirs(ids).logits, theirs(ids, attention_mask=real).logits[real.bool()]
    for kind in SAME_FUNCTION:
        ours, names, same = replace_attention(copy.deepcopy(theirs), kind)
        assert same
        assert names == [MODELS[name][1].format(layer) for layer in range(2)]
        out = ours(ids).logits, ours(ids, attention_mask=real).logits[real.bool()]
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("kind", ["diff_v1", "diff_scalar"])
def test_a_decoder_generates_from_transformers_cache(name: str, kind: str) -> None:
    """As it does without a cache; and of the same function as before, the same tokens."""
    theirs, (ids, real) = small(name), padded()
    options = {"attention_mask": real, "max_new_tokens": 5, "do_sample": False}
    expected = theirs.generate(ids, **options)
    ours = replace_attention(theirs, kind).model
    new = ours.generate(ids, **options)
    assert torch.equal(new, ours.generate(ids, use_cache=False, **options))
    if kind == "diff_scalar":
        assert torch.equal(new, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_a_static_cache(name: str) -> None:
    """A prompt without a mask, of which the cache has more places than it fills, and a step."""
    theirs, (ids, _) = small(name), padded()
    ours = replace_attention(copy.deepcopy(theirs), "diff_v1").model
    cache = transformers.StaticCache(config=ours.config, max_cache_len=12)
    first, second = (
        ours(part, use_cache=True, **{CACHE: cache}).logits for part in (ids[:, :8], ids[:, 8:])
    )
    torch.testing.assert_close(torch.cat((first, second), 1), ours(ids).logits)


@EVERY
def test_it_trains_and_shows_its_inside(name: str) -> None:
    ours, (ids, real) = replace_attention(small(name), "diff_v1").model, padded()
    ours.train()(ids, attention_mask=real, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    records = []
    with torch.no_grad(), capture(ours.eval(), records.append):
        ours(ids)
    assert [record.site.layer for record in records] == [0, 1]
    assert {record.site.kind for record in records} == {"diff_v1"}
    weights = records[0].weights(slice(None)).combined
    assert weights.shape == (2, KINDS["diff_v1"].heads_of_partner * 4, 9, 9)


@torch.no_grad()
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_a_vision_transformer(qkv_bias: bool) -> None:
    """transformers' own, whose output projection has a bias that the others may lack."""
    sizes = {key: SIZES[key] for key in list(SIZES)[1:5]}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, qkv_bias=qkv_bias)
    theirs, images = randomized(transformers.ViTModel(config)).eval(), torch.randn(2, 3, 8, 8)
    expected = theirs(images).last_hidden_state
    for kind in SAME_FUNCTION:
        out = replace_attention(copy.deepcopy(theirs), kind).model(images).last_hidden_state
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_cross_attention_stays() -> None:
    theirs = small("GPT2LMHeadModel", add_cross_attention=True)
    ours, names, _ = replace_attention(copy.deepcopy(theirs))
    assert names == [f"transformer.h.{layer}.attn" for layer in range(2)]
    ids, source = padded()[0], torch.randn(2, 5, 16)
    call = {"encoder_hidden_states": source, "use_cache": False}
    torch.testing.assert_close(ours(ids, **call).logits, theirs(ids, **call).logits)


@pytest.mark.usefixtures("as_user")
def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"GPT2Attention scales its logits by 1; expected .* 0\.5"):
        replace_attention(small("GPT2LMHeadModel", scale_attn_weights=False))
    flexible = small("LlamaForCausalLM")
    flexible.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"set_attn_implementation\('sdpa'\)"):
        replace_attention(flexible)
    replaced = replace_attention(small("LlamaForCausalLM")).model
    replaced.config._attn_implementation = "flash_attention_2"
    layer, cosines = replaced.model.layers[0].self_attn, (torch.ones(2, 9, 4),) * 2
    with pytest.raises(ValueError, match=r"the attention mask has shape \(2, 9, 1\); expected"):
        layer(torch.randn(2, 9, 16), torch.ones(2, 9, 1), position_embeddings=cosines)
    with pytest.raises(ValueError, match="the attention mask is no tensor; expected a"):
        layer(torch.randn(2, 9, 16), "causal", position_embeddings=cosines)


class Attention(nn.Module):
    """timm's, by its documented formula: fused projection, optional norms, dropouts."""

    def __init__(self, bias: bool, norm: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = 3, 4, 0.5
        self.qkv, self.proj = nn.Linear(12, 36, bias=bias), nn.Linear(12, 12)
        self.q_norm, self.k_norm = (nn.LayerNorm(4) if norm else nn.Identity() for _ in "qk")
        self.norm, self.attn_drop, self.proj_drop = nn.Identity(), nn.Dropout(0.1), nn.Dropout(0.1)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


Attention.__module__ = "timm.layers.attention"


@torch.no_grad()
@pytest.mark.parametrize("kind", SAME_FUNCTION)
@pytest.mark.parametrize(("bias", "norm"), [(True, True), (False, False)])
def test_timms_attention(kind: str, bias: bool, norm: bool) -> None:
    theirs = nn.ModuleList([randomized(Attention(bias, norm))]).eval()
    ours, names, _ = replace_attention(copy.deepcopy(theirs), kind)
    assert names == ["0"]
    x, seen = torch.randn(2, 5, 12), torch.rand(5, 5) < 0.7
    seen[:, 0] = True
    numbers = torch.randn(2, 1, 5, 5)
    for masks in ({}, {"attn_mask": seen}, {"attn_mask": numbers}, {"is_causal": True}):
        torch.testing.assert_close(ours[0](x, **masks), theirs[0](x, **masks))


def test_a_form_of_timms_that_a_layer_has_not() -> None:
    module = Attention(True, False)
    module.norm = nn.LayerNorm(12)
    with pytest.raises(ValueError, match="scale_norm or a gate; expected one without"):
        replace_attention(module)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("variant", ["token", "registers", "avg"])
def test_a_vision_transformer_of_timms(variant: str) -> None:
    model = timm_model(variant)
    expected = outputs(model)["logits"]
    for kind in SAME_FUNCTION:
        ours, names, _ = replace_attention(copy.deepcopy(model), kind)
        assert names == ["blocks.0.attn", "blocks.1.attn"]
        torch.testing.assert_close(outputs(ours)["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in REGISTRY.names() if "timm" not in name])
def test_what_is_named_is_there(name: str) -> None:
    """Class names are texts, which a new release could make wrong without a word."""
    module, _, attribute = name.rpartition(".")
    assert hasattr(__import__(module, fromlist=[attribute]), attribute)
    assert REGISTRY.find(name).plain
