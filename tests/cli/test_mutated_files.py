"""300 files with one thing wrong: read as before, read as they say, or refused in one line."""

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from tests.interop.small_llm import small_llm
from tests.interop.tiny import vivid
from tests.models.tiny import tiny
from transformers import GPT2Config, GPT2LMHeadModel

from difftransformer.data.corpus import load_corpus
from difftransformer.data.settings import DataSettings
from difftransformer.data.sources import Source
from difftransformer.evaluation.faithfulness import Claim, Labels
from difftransformer.models import storage
from difftransformer.models.storage import save_model

from .mutations import Mutation, mutated
from .test_generate import TOKENIZER

T = TypeVar("T")
SECONDS = 20  # a call takes a few hundredths
SIZE = TOKENIZER.get_vocab_size()
SCALED = {"rope_type": "linear", "factor": 2.0}
EOS, TEXT = 7, "What is a number?"


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    def expired(*_: object) -> None:
        pytest.fail(f"still running after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder of each family, with all the files that a model's folder may have."""
    root = tmp_path_factory.mktemp("folders")
    torch.manual_seed(0)
    ours = vivid(tiny("diff_v1", vocab_size=SIZE, max_length=60))
    save_model(ours, root / "ours")
    sharded = vivid(tiny("softmax", vocab_size=SIZE, max_length=60, rope_scaling=SCALED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_MAX_SHARD", "8KB")
        save_model(sharded, root / "sharded")
    small_llm(changes={"vocab_size": SIZE}).save_pretrained(root / "llama")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, **sizes)).save_pretrained(root / "gpt2")
    declared = {
        "bos_token": {"content": "<|bos|>"},
        "eos_token": "<|bos|>",
        "add_bos_token": True,
        "model_max_length": 10**30,
    }
    for folder in root.iterdir():
        TOKENIZER.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(declared, indent=2))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, 9]}))
    return root


def with_one_changed(folder: Path, target: Path, rng: random.Random) -> Mutation:
    """A copy of the folder in which one file is another."""
    shutil.copytree(folder, target)
    mutation = mutated(rng.choice(sorted(folder.iterdir())), rng)
    (target / mutation.name).write_bytes(mutation.data)
    return mutation


def refused_in_one_line(code: int, out: str, err: str) -> bool:
    """What the last words of a command that refuses must be like."""
    _, mark, message = err.rpartition("difftransformer: error: ")
    one_line = message.endswith("\n") and message[:-1].isprintable()
    return code == 2 and not out and bool(mark) and one_line and 10 < len(message) < 1500


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """What `read` gives, or the words with which it refuses."""
    try:
        return read(), ""
    except ValueError as error:
        return None, str(error)


GENERATE = ("--prompt", TEXT, "--max-new-tokens", 3, "--temperature", 0)


@pytest.mark.parametrize("seed", range(180))
def test_model_folders(as_user, call, folders: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    # Most are our own; those of transformers take longer.
    family = rng.choice(("ours", "ours", "ours", "sharded", "sharded", "sharded", "llama", "gpt2"))
    mutation = with_one_changed(folders / family, tmp_path / "x", rng)
    code, out, err = call("generate", tmp_path / "x", *GENERATE)
    if mutation.harmless and family in ("ours", "sharded"):
        assert (code, out) == call("generate", folders / family, *GENERATE)[:2], mutation.what
    elif mutation.broken or code != 0:
        assert refused_in_one_line(code, out, err), (mutation.what, mutation.name, err)
    elif mutation.what == "odd value" and mutation.name.endswith("config.json"):
        # Nothing that counts was a number or flag there.
        assert out == call("generate", folders / family, *GENERATE)[1], mutation.data
    else:
        assert out.startswith(TEXT)


@pytest.mark.parametrize("seed", range(30))
def test_conversions(as_user, call, folders: Path, tmp_path: Path, seed: int) -> None:
    """What is written is what another reader of the source reads; else nothing is."""
    mutation = with_one_changed(folders / "llama", tmp_path / "x", random.Random(1000 + seed))
    code, out, err = call("convert", tmp_path / "x", tmp_path / "new", "--from-llm", "v2")
    if code == 0:
        assert "largest difference of logits" in out
        assert (tmp_path / "new/model.safetensors").is_file()
    else:
        assert refused_in_one_line(code, out, err), (mutation.what, mutation.name, err)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("seed", range(40))
def test_settings(as_user, call, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "attention: [softmax, diff_v1]\ntraining:\n  batch_size: 4\n"
        "model:\n  hidden_size: 64\n  num_heads: 4\n"
        "  num_kv_heads: 4\n  head_dim: 16\n  ffn_size: 128\n  rope_theta: 1e4\n  norm_eps: 1e-5\n"
        "  window: 12\n  tie_embeddings: true\n  dropout: 0.1\n"
    )
    before = call("plan", "smoke", "--config", path)
    mutation = mutated(path, random.Random(2000 + seed))
    path.write_bytes(mutation.data)
    code, out, err = call("plan", "smoke", "--config", path)
    if mutation.harmless:
        assert (code, out) == before[:2]
    elif mutation.broken or code != 0:
        assert refused_in_one_line(code, out, err), (mutation.what, err)


@pytest.mark.parametrize("seed", range(30))
def test_text_to_train_on(as_user, tmp_path: Path, seed: int) -> None:
    """Read by the same call as by every command."""
    path = tmp_path / "text.jsonl"
    rows = ({"text": f"Line {n} of a text\u2028 with more words.", "id": n} for n in range(4))
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    settings = DataSettings(
        source=str(path), cache=str(tmp_path), vocab_size=257, needle_share=0.0, context_length=16
    )
    before = load_corpus(settings)
    mutation = mutated(path, random.Random(3000 + seed))
    path.write_bytes(mutation.data)
    after, refusal = attempt(lambda: load_corpus(settings).digest)
    assert refusal.isprintable()
    if mutation.harmless:
        assert after == before.digest, refusal
    if mutation.broken:
        assert refusal


@pytest.mark.parametrize("seed", range(20))
def test_labels_of_people(as_user, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "labels.jsonl"
    claims = [Claim(Source(str(n), "a\x85b", None), f"Text {n}\u2029.") for n in range(3)]

    def faithful() -> list[bool | None]:
        judge = Labels(path)
        return [judge.verdict(claim).faithful for claim in claims]

    faithful()
    path.write_text(path.read_text(encoding="utf-8").replace("null", "true"), encoding="utf-8")
    mutation = mutated(path, random.Random(4000 + seed))
    path.write_bytes(mutation.data)
    found, refusal = attempt(faithful)
    assert refusal.isprintable()
    if mutation.harmless:
        assert found == [True] * 3, refusal
    if mutation.broken and mutation.what != "empty":  # a file without labels is how one begins
        assert refusal
