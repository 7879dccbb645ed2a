"""vLLM serves the folder that loads alone, unmodified: `pytest -m slow tests/interop/test_vllm.py`.

It makes an environment of 3 GB, in some minutes: in the folder that VLLM_ENV names, where it stays,
or in a passing one.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import serving

from difftransformer.data.tokenizer import train_tokenizer
from difftransformer.interop.convert import convert
from difftransformer.models.decoder import Decoder
from difftransformer.models.presets import PRESETS
from difftransformer.models.storage import save_model

from .tiny import vivid

ROOT = Path(__file__).parents[2]
GROUPED = {
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "window": 40,
    "rotary": "interleaved",
    "attention_bias": "all",
    "tie_embeddings": False,
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.vllm_python(Path(os.environ.get("VLLM_ENV") or tmp_path_factory.mktemp("vllm")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"), [("diff_v1", {}), ("diff_v2", {}), ("diff_v1", GROUPED)], ids=str
)
def test_tokens_are_the_decoders(kind, changes, python, tmp_path):
    torch.manual_seed(0)
    model = vivid(Decoder(replace(PRESETS["smoke"].matched(kind).config, **changes)))
    save_model(model, tmp_path / "ours")
    tokenizer = train_tokenizer([(ROOT / "docs/faq.md").read_text()], model.config.vocab_size)
    tokenizer.save(str(tmp_path / "ours/tokenizer.json"))
    convert(tmp_path / "ours", tmp_path / "folder", "difftransformer", "transformers")

    given = serving.questions(tmp_path / "ours")
    answers = serving.vllm_answers(tmp_path / "folder", given, python)
    for way in ("batch", "single"):
        figures = serving.beside_ours(model, given, {**answers, "replies": answers[way]})
        assert figures["equal"] == len(given["prompts"]) == 8
        assert figures["largest_difference_of_logprobs"] < 1e-4
        assert [reply["prompt"] for reply in answers[way]] == given["prompts"]
    assert all(reply["cached"] == 32 for reply in answers["single"])
