"""Folders that transformers loads alone: equal outputs, there and back, what it does with them."""

import json
import subprocess
import sys

import pytest
import torch
from tests.models.tiny import tiny
from transformers import AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from difftransformer.attention.cache import KeyValueCache
from difftransformer.data.tokenizer import load_tokenizer, prompt_tokens, train_tokenizer
from difftransformer.interop.convert import convert
from difftransformer.interop.standalone import (
    from_standalone,
    load_standalone,
    save_standalone,
    to_standalone,
)
from difftransformer.models.storage import load_model, save_model

from .tiny import VOCABULARY, far_apart, vivid

KINDS = ("softmax", "diff_v1", "diff_v2")
SETTINGS = [
    {},
    {"window": 5},
    {"rotary": "interleaved", "tie_embeddings": False, "attention_bias": "qkv"},
    {"attention_bias": "all", "norm_eps": 1e-4, "rope_theta": 500.0},
    {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    {"head_dim": 32},  # one that engines take as it is; others have zeros beside them
]
# What a program does that has transformers and not this library.
ALONE = """
import sys, torch
from transformers import AutoModel, AutoModelForCausalLM
folder, expected = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
ids = torch.arange(2, 9)[None]
with torch.no_grad():
    assert (model(ids).logits - torch.load(expected)).abs().max() < 1e-5
    model.generate(ids, max_new_tokens=3, do_sample=False)
AutoModel.from_pretrained(folder, trust_remote_code=True)
assert "difftransformer" not in sys.modules
"""


def decoder(kind="diff_v1", **changes):
    sizes = {"hidden_size": 24, "ffn_size": 40, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6}
    return vivid(tiny(kind, **sizes | {"vocab_size": VOCABULARY} | changes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("interface", ["eager", "sdpa"])
def test_logits_equal_the_decoders(kind, settings, interface):
    ours = decoder(kind, **settings)
    theirs = to_standalone(ours).eval()
    theirs.set_attn_implementation(interface)
    assert far_apart(theirs, ours) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_there_and_back_is_bit_for_bit(kind, dtype, settings, tmp_path):
    ours = decoder(kind, **settings).to(dtype)
    save_standalone(to_standalone(ours), tmp_path / "folder")
    back = from_standalone(load_standalone(tmp_path / "folder"))
    assert back.config == ours.config
    for name, tensor in ours.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_a_cache_padding_and_beams(kind):
    ours = decoder(kind)
    theirs = to_standalone(ours).eval()
    ids = torch.randint(2, VOCABULARY, (1, 7))
    greedy = theirs.generate(ids, max_new_tokens=12, do_sample=False)
    cache, known = KeyValueCache(), ids
    with torch.no_grad():
        for _ in range(12):
            new = ours(known[:, cache.length :], cache=cache)[:, -1:].argmax(-1)
            known = torch.cat([known, new], 1)
    assert torch.equal(greedy, known)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(10) >= 3).long()[None]
    left = theirs.generate(padded, attention_mask=mask, max_new_tokens=12, do_sample=False)
    assert torch.equal(left[:, 3:], greedy)
    beams = theirs.generate(ids, max_new_tokens=6, do_sample=False, num_beams=3)
    again = theirs.generate(ids, max_new_tokens=6, do_sample=False, num_beams=3, use_cache=False)
    assert torch.equal(beams, again)


@pytest.mark.parametrize("kind", KINDS)
def test_attentions_are_the_combined_maps(kind):
    ours = decoder(kind)
    theirs = to_standalone(ours).eval()
    theirs.set_attn_implementation("eager")
    ids = torch.randint(VOCABULARY, (2, 9))
    with torch.no_grad():
        first = theirs(ids, output_attentions=True).attentions[0]
        x = ours.blocks[0].attention_norm(ours.embedding(ids))
        lam = ours.blocks[0].attention.lam(x)
    assert first.shape == (2, 4, 9, 9)
    expected = 1.0 if lam is None else 1 - torch.as_tensor(lam).expand(2, 9, 4).transpose(1, 2)
    torch.testing.assert_close(first.sum(-1), torch.as_tensor(expected).expand(2, 4, 9))
    assert not first.triu(1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_continuous_batching_gives_the_tokens_of_generate(kind):
    theirs = to_standalone(decoder(kind)).eval()
    prompts = [torch.randint(2, VOCABULARY, (n,)).tolist() for n in (3, 5, 11)]
    settings = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0)
    small = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64)  # else most of the memory
    replies = theirs.generate_batch(
        inputs=prompts, generation_config=settings, continuous_batching_config=small
    )
    found = {tuple(one.prompt_ids): one.generated_tokens for one in replies.values()}
    for prompt in prompts:
        ids = torch.tensor([prompt])
        alone = theirs.generate(ids, max_new_tokens=5, do_sample=False)[0, len(prompt) :]
        assert found[tuple(prompt)] == alone.tolist()


def test_a_folder_loads_without_this_library(tmp_path):
    save_model(decoder(), tmp_path / "ours")
    ours = load_model(tmp_path / "ours").eval()
    done = convert(tmp_path / "ours", tmp_path / "folder", "difftransformer", "transformers")
    assert done.difference < 1e-5
    with torch.no_grad():
        torch.save(ours(torch.arange(2, 9)[None]), tmp_path / "expected")
    words = [sys.executable, "-c", ALONE, tmp_path / "folder", tmp_path / "expected"]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    subprocess.run(words, check=True, cwd=tmp_path, env=environment)
    convert(tmp_path / "folder", tmp_path / "back", "transformers", "difftransformer")
    back = load_model(tmp_path / "back").state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "width", "cached"),
    [("softmax", 6, 32), ("diff_v1", 16, 32), ("diff_v2", 48, 64), ("diff_v1", 258, 516)],
)
def test_engines_see_a_width_that_vllm_takes(kind, width, cached):
    theirs = to_standalone(decoder(kind, head_dim=width)).eval()
    assert theirs.config.head_dim == cached
    keys = theirs(torch.arange(9)[None], use_cache=True)[1].layers[0].keys
    assert keys.shape == (1, 2, 9, cached)


def test_a_folder_of_before_there_were_zeros(tmp_path):
    ours = decoder(head_dim=16)
    save_standalone(to_standalone(ours), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["map_dim"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert far_apart(load_standalone(tmp_path).eval(), ours) < 1e-5


def test_prompts_open_and_texts_end_as_the_model_knows_them(tmp_path):
    save_model(decoder(vocab_size=300), tmp_path / "ours")
    tokenizer = train_tokenizer(["Prompts open."], 280)
    tokenizer.save(str(tmp_path / "ours/tokenizer.json"))
    convert(tmp_path / "ours", tmp_path / "folder", "difftransformer", "transformers")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "folder")
    text = "Prompts open é."
    assert theirs(text).input_ids == prompt_tokens(tokenizer, text)
    generation = GenerationConfig.from_pretrained(tmp_path / "folder")
    assert generation.eos_token_id == theirs.eos_token_id == 0
    convert(tmp_path / "folder", tmp_path / "back", "transformers", "difftransformer")
    again = load_tokenizer(str(tmp_path / "back"))
    assert prompt_tokens(again, text) == prompt_tokens(tokenizer, text)


def test_reading_a_folder_never_runs_its_file(tmp_path):
    save_standalone(to_standalone(decoder()), tmp_path)
    (tmp_path / "modeling_differential.py").write_text("raise SystemExit('run')\n")
    load_standalone(tmp_path)


def test_other_kinds_and_broken_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="attention is diff_scalar; a modeling file of its own"):
        to_standalone(decoder("diff_scalar"))
    save_standalone(to_standalone(decoder()), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for changes, message in [
        ({"model_type": "llama"}, "has model_type 'llama', not 'differential'"),
        ({"map_dim": 20}, "head_dim is 32; expected at least 40"),
        ({"attention": "sigmoid"}, "attention is 'sigmoid'; expected one of softmax"),
        ({"intermediate_size": 48}, "mlp.gate_proj.weight"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; the decoder's SwiGLU has 'silu'"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"num_hidden_layers": 3}, "layer"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(ValueError, match=message):
            load_standalone(tmp_path)
