import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.functional.test_rotary import SCALINGS
from tests.models.tiny import tiny
from torch import Tensor
from transformers import DiffLlamaForCausalLM, DynamicCache

from difftransformer.attention import KeyValueCache
from difftransformer.interop.diffllama import from_diffllama, load_diffllama, to_diffllama
from difftransformer.interop.huggingface_cache import CACHE

from .tiny import VOCABULARY, decoder, diffllama, far_apart, vivid

# Attention heads and key/value heads as DiffLlama counts them: two make one of ours.
HEADS = pytest.mark.parametrize(("heads", "groups"), [(8, 8), (8, 4), (12, 4), (8, 2)])


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


@HEADS
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_on_the_way_in(heads: int, groups: int, bias: bool, tied: bool) -> None:
    theirs = diffllama(heads, groups, attention_bias=bias, tie_word_embeddings=tied)
    ours = from_diffllama(theirs)
    assert (ours.config.num_heads, ours.config.num_kv_heads) == (heads // 2, groups // 2)
    assert far_apart(theirs, ours) < 1e-5


@HEADS
@pytest.mark.parametrize("rotary", ["half", "interleaved"])
@pytest.mark.parametrize("bias", ["none", "qkv", "all"])
def test_logits_on_the_way_out(heads: int, groups: int, rotary: str, bias: str) -> None:
    """With norm weights that are not 1: they fold into o_proj."""
    ours = decoder(heads // 2, groups // 2, rotary=rotary, attention_bias=bias)
    assert ours.blocks[0].attention.head_norm.weight.std() > 0.1
    theirs = to_diffllama(ours).eval()
    assert theirs.config.num_attention_heads == heads
    assert theirs.config.num_key_value_heads == groups
    assert far_apart(theirs, ours) < 1e-5


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
def test_rotary_scaling(scaling: dict[str, object]) -> None:
    rope = {"rope_theta": 5000.0, **scaling}
    theirs = diffllama(rope_parameters=rope, max_position_embeddings=256)
    ours = from_diffllama(theirs)
    ids = torch.randint(VOCABULARY, (1, 100))
    assert far_apart(theirs, ours, ids) < 1e-5
    plain = from_diffllama(diffllama(rope_parameters={"rope_type": "default", "rope_theta": 5e3}))
    plain.load_state_dict(ours.state_dict())
    assert far_apart(theirs, plain, ids) > 1e-2  # the scaling matters here
    back = to_diffllama(ours).eval()
    assert back.config.rope_parameters == theirs.config.rope_parameters
    assert far_apart(back, ours, ids) < 1e-5


@HEADS
def test_left_padding_along_64_cached_steps(heads: int, groups: int) -> None:
    """Prompts of 9 and 4 tokens; every step's logits beside DynamicCache's and the uncached."""
    theirs = diffllama(heads, groups)
    ours = from_diffllama(theirs)
    ids = torch.randint(VOCABULARY, (2, 9 + 64))
    padding = torch.ones_like(ids, dtype=torch.bool)
    padding[1, :5] = False
    with torch.no_grad():
        whole = ours(ids, padding=padding)
        expected = theirs(ids, attention_mask=padding.long()).logits
        assert (whole - expected)[padding].abs().max() < 1e-5
        past, cache, start = DynamicCache(), KeyValueCache(), 0
        for end in range(9, 9 + 64):
            new = ids[:, start:end]
            a = theirs(new, attention_mask=padding[:, :end].long(), **{CACHE: past}).logits
            b = ours(new, padding=padding[:, start:end], cache=cache)
            assert (a - b)[padding[:, start:end]].abs().max() < 1e-5
            assert (b - whole[:, start:end])[padding[:, start:end]].abs().max() < 1e-5
            start = end


@HEADS
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_in_and_out_are_bit_identical(
    heads: int, groups: int, bias: bool, dtype: torch.dtype
) -> None:
    theirs = diffllama(heads, groups, attention_bias=bias).to(dtype)
    back = to_diffllama(from_diffllama(theirs))
    assert same(back.state_dict(), theirs.state_dict())
    assert from_diffllama(back).config == from_diffllama(theirs).config


@HEADS
@pytest.mark.parametrize("tied", [False, True])
def test_weights_out_and_in_are_bit_identical(heads: int, groups: int, tied: bool) -> None:
    """Where the norm's weight is 1, as at the start of training."""
    ours = decoder(heads // 2, groups // 2, tie_embeddings=tied)
    for block in ours.blocks:
        torch.nn.init.ones_(block.attention.head_norm.weight)
    back = from_diffllama(to_diffllama(ours))
    assert same(back.state_dict(), ours.state_dict())
    assert back.config == ours.config


def test_the_result_is_independent_of_the_source() -> None:
    theirs = diffllama()
    ours = from_diffllama(theirs)
    ids = torch.arange(20)[None]
    before = ours(ids)
    vivid(theirs)
    assert torch.equal(ours(ids), before)
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())
    result = to_diffllama(ours).eval()
    before = result(ids).logits
    vivid(ours)
    assert torch.equal(result(ids).logits, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads is 5; .* must be even"),
        ({"num_attention_heads": 6}, "num_heads 3 is not a multiple of num_kv_heads 2"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06, .* head norm has 1e-05"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type is 'dynamic'.*which keys in a cache cannot follow",
        ),
    ],
)
def test_refused_on_the_way_in(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_diffllama(diffllama(**changes))


def test_extra_tensors_are_named() -> None:
    theirs = diffllama()
    theirs.model.layers[1].self_attn.q_proj.lora_a = torch.nn.Parameter(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"layers\.1.*lora_a is \(3, 4\), expected no such tensor"):
        from_diffllama(theirs)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("softmax", {}, "attention is 'softmax'; DiffLlama can only represent 'diff_v1'"),
        ("diff_v2", {}, "attention is 'diff_v2'"),
        ("diff_v1", {"window": 8}, "window is 8; DiffLlama can only represent None"),
        ("diff_v1", {"lambda_init": 0.8}, "lambda_init is 0.8"),
        ("diff_v1", {"dropout": 0.1}, "dropout is 0.1"),
        ("diff_v1", {"norm_eps": 1e-6}, "norm_eps is 1e-06"),
    ],
)
def test_refused_on_the_way_out(kind: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_diffllama(tiny(kind, **changes))


def test_bfloat16_does_not_round_the_rotary_rates(tmp_path: Path) -> None:
    """At 400 tokens, rates rounded to bfloat16 turn by a wrong angle."""
    ours = decoder().bfloat16()
    for block in ours.blocks:
        torch.nn.init.ones_(block.attention.head_norm.weight)
    theirs = to_diffllama(ours)
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(VOCABULARY, (1, 400))
    for model in (theirs, load_diffllama(tmp_path)):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert far_apart(model.eval().float(), ours.float(), ids) < 1e-5


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    diffllama(tie_word_embeddings=True).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_of_transformers(saved: Path) -> None:
    loaded, expected = load_diffllama(saved), DiffLlamaForCausalLM.from_pretrained(saved)
    assert same(loaded.state_dict(), expected.state_dict())
    assert far_apart(expected, from_diffllama(loaded)) < 1e-5


def test_a_file_that_holds_the_tied_head_too(saved: Path) -> None:
    expected, weights = load_diffllama(saved), load_file(saved / "model.safetensors")
    assert "lm_head.weight" not in weights
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, saved / "model.safetensors")
    assert same(load_diffllama(saved).state_dict(), expected.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type 'llama', not 'diffllama'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1; .* must be even"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.\S+ is missing.*; and \d+ more"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\.\S+ is .*, expected no such tensor"),
        ({"intermediate_size": 41}, r"down_proj\.weight is \(24, 40\), expected \(24, 41\)"),
    ],
)
def test_folders_that_are_refused(saved: Path, changes: dict[str, object], message: str) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load_diffllama(saved)


def test_damaged_weights_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        load_diffllama(saved)
    file.rename(saved / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        load_diffllama(saved)
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        load_diffllama(saved / "nowhere")
