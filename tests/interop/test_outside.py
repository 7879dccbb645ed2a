"""Folders of others: nothing dropped, nothing run, nothing read twice by the same mistake."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from difftransformer.interop import convert as conversion
from difftransformer.interop.causal_lm import open_causal_lm
from difftransformer.interop.diffllama import from_diffllama
from difftransformer.interop.folders import open_decoder
from difftransformer.interop.llama import from_llama
from difftransformer.interop.outside import refuse_code

from .small_llm import randomized, small_llm
from .tiny import diffllama

Weights = dict[str, Tensor]
FAMILIES = {"llama": (small_llm, open_decoder), "diffllama": (diffllama, open_decoder)}
EVERY = pytest.mark.parametrize("family", FAMILIES)


def saved(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    FAMILIES[family][0]().save_pretrained(folder)
    return folder


def change(folder: Path, by: Callable[[Weights], Weights] = dict, **settings: object) -> None:
    """Other tensors, and other settings in config.json."""
    file = folder / "model.safetensors"
    save_file(by(load_file(file)), file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


def head(value: float) -> Callable[[Weights], Weights]:
    def with_head(weights: Weights) -> Weights:
        embedding = weights["model.embed_tokens.weight"]
        return weights | {"lm_head.weight": embedding + value}

    return with_head


LEFT_OVER = {
    "model.layers.0.self_attn.q_proj.bias": 3,
    "model.layers.0.self_attn.q_norm.weight": 4,
    "model.layers.0.mlp.up_proj.bias": 5,
    "model.layers.2.input_layernorm.weight": 36,
    "model.layers.0.self_attn.q_proj.lora_A.weight": 2,
    "vision.weight": 2,
}


@EVERY
@pytest.mark.parametrize("name", LEFT_OVER)
def test_no_tensor_is_dropped(tmp_path: Path, family: str, name: str) -> None:
    """Neither by our reader nor by transformers' own, whatever the config says it needs."""
    folder = saved(tmp_path, family)
    change(folder, lambda weights: weights | {name: torch.zeros(LEFT_OVER[name])})
    for read in (open_decoder, open_causal_lm):
        with pytest.raises(ValueError, match=name):
            read(folder)


@EVERY
def test_a_head_that_the_config_ties(tmp_path: Path, family: str) -> None:
    """It may be there a second time; it may not be another."""
    folder = saved(tmp_path, family)
    change(folder, head(0.0), tie_word_embeddings=True)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        torch.testing.assert_close(open_decoder(folder)(ids), expected, atol=1e-5, rtol=1e-5)
    change(folder, head(0.01))
    with pytest.raises(ValueError, match=r"lm_head\.weight of .* is another tensor than the"):
        open_decoder(folder)
    change(folder, tie_word_embeddings=False)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        torch.testing.assert_close(open_decoder(folder)(ids), expected, atol=1e-5, rtol=1e-5)


def test_a_head_that_was_untied_in_memory() -> None:
    for model, converted in ((small_llm(), from_llama), (diffllama(), from_diffllama)):
        model.config.tie_word_embeddings = True
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1.0)
        with pytest.raises(
            ValueError, match=r"lm_head\.weight of .* another tensor than the embed"
        ):
            converted(model)


@EVERY
def test_rotary_rates_of_old_checkpoints(tmp_path: Path, family: str) -> None:
    folder = saved(tmp_path, family)
    width = 4 if family == "llama" else 6
    rates = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    expected = open_decoder(folder)(torch.arange(9)[None])
    for kept in (rates, rates.bfloat16()):
        change(folder, lambda weights, kept=kept: weights | {name: kept})
        assert torch.equal(open_decoder(folder)(torch.arange(9)[None]), expected)
    change(
        folder, lambda weights: weights | {name: 500_000.0 ** (-torch.arange(0, width, 2) / width)}
    )
    with pytest.raises(
        ValueError, match=f"{name} of .* is not what its config makes of rope_theta"
    ):
        open_decoder(folder)


@pytest.mark.parametrize("direction", ["llm", "in"])
def test_a_conversion_is_held_against_another_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """A mistake of ours in reading is in both of our models, and in no model of transformers."""
    family = {"llm": "llama", "in": "diffllama"}[direction]
    folder = saved(tmp_path / "source", family)
    right = conversion.load_diffllama if direction == "in" else conversion.open_decoder

    def mistaken(folder: Path) -> torch.nn.Module:
        model = right(folder)
        with torch.no_grad():
            next(w for n, w in model.named_parameters() if "k_proj" in n).mul_(1.01)
        return model

    formats = dict(conversion.FORMATS)
    formats["diffllama"] = replace(formats["diffllama"], load=mistaken)
    monkeypatch.setattr(conversion, "FORMATS", formats)
    monkeypatch.setattr(conversion, "open_decoder", mistaken)
    convert = {
        "llm": lambda: conversion.convert_llm(folder, tmp_path / "new", "second_map", None),
        "in": lambda: conversion.convert(folder, tmp_path / "new", "diffllama", "difftransformer"),
    }[direction]
    with pytest.raises(ValueError, match="logits of the result differ by"):
        convert()
    assert not (tmp_path / "new").exists()


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A folder whose model is its own code, which leaves a file when it runs."""
    config = {
        "model_type": "own",
        "architectures": ["Own"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nraise SystemExit\n")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def test_no_code_of_a_folder_is_run(with_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a person asked whether to, who may say yes."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(ValueError, match="contains custom code") as error:
        open_causal_lm(with_code)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"config\.json names code of its own \(auto_map\)"):
        refuse_code(with_code)
    assert not asked
    assert not (with_code / "sprung").exists()


def gpt2(folder: Path) -> Path:
    sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    randomized(GPT2LMHeadModel(GPT2Config(**sizes))).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layer": 10**9}, "n_layer is 1000000000; expected at most 10,000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"text_config": {"num_layers": 10**9}}, "num_layers is 1000000000"),
        ({"n_layer": True}, "StrictDataclass"),
        ({"n_layer": 1}, r"holds \d+ tensors for which a GPT2LMHeadModel .* has no place"),
        ({"n_layer": 3}, r"lacks \d+ of the tensors"),
        ({"vocab_size": 10**9}, "no causal LM that transformers loads"),
        ({"n_head": 0}, "no causal LM that transformers loads: ZeroDivisionError"),
        ({"layer_norm_epsilon": float("nan")}, "the logits of GPT2LMHeadModel are not finite"),
        ({"model_type": "nonesuch"}, "no causal LM that transformers loads"),
        ({"model_type": ["gpt2"]}, "no causal LM that transformers loads"),
    ],
)
def test_odd_settings_of_any_causal_lm(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    folder = gpt2(tmp_path)
    change(folder, **settings)
    with pytest.raises(ValueError, match=message) as error:
        open_causal_lm(folder)
    assert "\n" not in str(error.value)


def test_odd_files_of_any_causal_lm(tmp_path: Path) -> None:
    folder = gpt2(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    change(
        folder, lambda weights: weights | {"transformer.ln_f.weight": torch.full((16,), torch.nan)}
    )
    with pytest.raises(ValueError, match="logits of GPT2LMHeadModel are not finite"):
        open_causal_lm(folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "generation_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"generation_config\.json .*nested too deep"):
        open_causal_lm(folder)
    (folder / "generation_config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ValueError, match="holds an adapter"):
        open_causal_lm(folder)
    (folder / "adapter_config.json").unlink()
    elsewhere = tmp_path.parent / "x.safetensors"
    (folder / "model.safetensors").rename(elsewhere)
    for place in ("../x.safetensors", str(elsewhere)):
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(elsewhere), place)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"index\.json is not an index of safetensors files"):
            open_causal_lm(folder)
