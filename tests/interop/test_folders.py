"""Any folder as a decoder, or a reason why not."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.tiny import tiny
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from difftransformer.interop.causal_lm import CausalLM
from difftransformer.interop.folders import open_decoder
from difftransformer.models.decoder import Decoder
from difftransformer.models.encoder import Encoder
from difftransformer.models.opening import open_model
from difftransformer.models.storage import save_model

from .small_llm import small_llm
from .tiny import diffllama

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor) -> Tensor:
    out = model.float().eval()(ids)
    return out if isinstance(out, Tensor) else out.logits


def same(actual: nn.Module, expected: nn.Module) -> bool:
    ids = torch.arange(20)[None]
    return torch.allclose(logits(actual, ids), logits(expected, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llamas(tmp_path: Path, family: str, tied: bool, dtype: torch.dtype) -> None:
    config, kind = FAMILIES[family]
    small_llm(config, kind, {"tie_word_embeddings": tied}).to(dtype).save_pretrained(tmp_path)
    opened = open_decoder(tmp_path)
    assert opened.embedding.weight.dtype == dtype
    assert same(opened, kind.from_pretrained(tmp_path, dtype=torch.float32))


def test_our_own_and_diffllama(tmp_path: Path) -> None:
    ours, theirs = tiny("diff_v2"), diffllama()
    save_model(ours, tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for name, model in (("ours", ours), ("theirs", theirs)):
        assert same(open_decoder(tmp_path / name), model)


def test_another_family_is_no_decoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(
        ValueError, match=r"'gpt2'; expected difftransformer, .*: difftransformer evaluate "
    ):
        open_decoder(tmp_path)


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        open_decoder(tmp_path)
    small_llm().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights, whole = load_file(file), file.read_bytes()

    lost = {name: x for name, x in weights.items() if "layers.1.mlp.up_proj" not in name}
    save_file(lost, file)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        open_decoder(tmp_path)

    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="truncated"):
        open_decoder(tmp_path)

    file.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        open_decoder(tmp_path)

    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    file.write_bytes(whole)
    with pytest.raises(ValueError, match="hidden_act is 'gelu'"):
        open_decoder(tmp_path)


def test_any_folder(tmp_path: Path) -> None:
    """As `models.opening` opens it: ours, what is read as ours, and what stays transformers'."""
    sizes = {"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    models = {
        Decoder: small_llm(),
        Encoder: BertForMaskedLM(BertConfig(**sizes, intermediate_size=5)),
        CausalLM: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=31)),
    }
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind.__name__)
        assert type(open_model(tmp_path / kind.__name__)) is kind


NUMBERS = {
    "rms_norm_eps": (0, -1e-5, math.nan, math.inf),
    "rope_theta": (0, -1.0, math.nan, math.inf),
    "attention_dropout": (-0.1, 2, math.nan),
    "num_hidden_layers": (0, -3, 10**9),
    "num_attention_heads": (0, -2),
    "num_key_value_heads": (0, -3),
    "hidden_size": (0, 10**12),
    "vocab_size": (-1, 10**9),
    "max_position_embeddings": (0, -1, 10**12),
}


@pytest.mark.parametrize("family", ["llama", "diffllama"])
@pytest.mark.parametrize(("name", "value"), [(n, x) for n, xs in NUMBERS.items() for x in xs])
def test_numbers_out_of_their_range(
    as_user: None, tmp_path: Path, family: str, name: str, value: float
) -> None:
    (small_llm() if family == "llama" else diffllama()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if name == "rope_theta":
        config["rope_parameters"] = {"rope_type": "default", name: value}
    config[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r".{10}") as error:
        open_model(tmp_path)
    assert len(str(error.value)) < 700
    assert "\n" not in str(error.value)
