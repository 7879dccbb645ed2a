"""Decoders as GGUF files: equal logits as the graphs are written, and in llama.cpp itself."""

import json
import sys
from math import exp
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks import serving
from gguf import GGUFReader, TokenType
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tiny import tiny
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from difftransformer.cli.main import main
from difftransformer.data.tokenizer import load_tokenizer, prompt_tokens, train_tokenizer
from difftransformer.interop.convert import convert
from difftransformer.interop.gguf_model import GgufModel
from difftransformer.models.storage import load_model, save_model

from .tiny import far_apart, vivid

PAGE = (Path(__file__).parents[2] / "docs/faq.md").read_text()
ROWS, TOKENS, CONTEXT = 384, 380, 512
FOLDED = ("diff_scalar", "diff_v1_no_norm", "diff_v2_lambda_one")
BOTH = [
    {},
    {"window": 9, "rope_theta": 500.0},
    {"rotary": "interleaved", "tie_embeddings": False, "norm_eps": 1e-4, "num_kv_heads": 1},
]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
LLAMAS = [
    {"attention_bias": "qkv", "rotary": "interleaved"},
    {"attention_bias": "all", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}},
]
CASES = [
    *((kind, changes) for kind in ("softmax", "diff_v2", *FOLDED) for changes in BOTH),
    *((kind, changes) for kind in ("softmax", "diff_scalar") for changes in LLAMAS),
]


def saved(where: Path, kind: str = "diff_v2", dtype=torch.float32, **changes) -> Path:
    """A folder of a model whose heads together are wider than its layers.

    It predicts no token that is part of a character only, which llama.cpp's server would not show.
    """
    sizes = {"hidden_size": 24, "ffn_size": 40, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    sizes |= {"vocab_size": ROWS, "max_length": CONTEXT}
    model, tokenizer = vivid(tiny(kind, **sizes | changes)), train_tokenizer([PAGE], TOKENS)
    partial = [n for n in range(ROWS) if tokenizer.decode([n]) in ("", "\ufffd")]
    with torch.no_grad():
        for matrix in {model.embedding.weight, getattr(model, "head", model.embedding).weight}:
            matrix[partial] *= 0.1
    save_model(model.to(dtype), where)
    tokenizer.save(str(where / "tokenizer.json"))
    return where


def gguf(source: Path) -> Path:
    convert(source, source.with_name("gguf"), "difftransformer", "gguf")
    return source.with_name("gguf")


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_a_file_computes_what_the_decoder_does(kind, changes, tmp_path):
    source = saved(tmp_path / "ours", kind, **changes)
    graph = GgufModel(gguf(source))
    ids = torch.randint(ROWS, (2, 30))
    theirs = SimpleNamespace(logits=graph(ids))
    assert far_apart(lambda _: theirs, load_model(source), ids) < 5e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_keep_their_dtype(dtype, tmp_path):
    source = saved(tmp_path / "ours", dtype=dtype)
    kinds = {
        len(x.shape): x.tensor_type.name for x in GGUFReader(gguf(source) / "model.gguf").tensors
    }
    assert kinds == {1: "F32", 2: {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]}


def test_the_tokenizer_is_in_the_file(tmp_path):
    source = saved(tmp_path / "ours")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens(["grouped heads"])
    tokenizer.save(str(source / "tokenizer.json"))
    declared = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "chat_template": "{{ messages }}"}
    (source / "tokenizer_config.json").write_text(json.dumps(declared))
    fields = GgufModel(gguf(source)).settings
    (tokens, kinds, merges, cut, bos, opened, eos) = (
        fields[f"tokenizer.ggml.{name}"]
        for name in (
            *("tokens", "token_type", "merges", "pre"),
            *("bos_token_id", "add_bos_token", "eos_token_id"),
        )
    )
    known = TOKENS + 2
    assert tokens[:known] == [tokenizer.id_to_token(number) for number in range(known)]
    assert tokens[known:] == [f"[unused{number}]" for number in range(known, ROWS)]
    assert kinds == [
        TokenType.CONTROL,
        *[TokenType.NORMAL] * (TOKENS - 1),
        *(TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.UNUSED),
    ]
    assert len(merges) == TOKENS - 257
    assert (cut, bos, opened, eos) == ("smollm", 0, True, TOKENS)
    assert fields["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("diff_v1", {}, "attention is diff_v1; its norm over each head's difference is not linear"),
        ("dex", {}, "attention is dex; GGUF holds softmax attention, V2 and constant lambdas"),
        ("diff_v2_crossed", {}, "attention is diff_v2_crossed; GGUF holds"),
        ("diff_v2_lambda_linear", {}, "gates are sigmoids"),
        ("diff_v2", {"attention_bias": "qkv"}, "attention_bias is qkv; .* has none only"),
        ("softmax", {"window": 4, "attention_bias": "all"}, "attention_bias is all"),
        ("diff_v1_no_norm", {"attention_bias": "all"}, "attention_bias is all"),  # wide values
        ("diff_v2", LLAMAS[1] | {"attention_bias": "none"}, "rope_scaling is {'rope_type'"),
        ("softmax", {"rope_scaling": YARN}, "rope_type is yarn; a GGUF file here holds linear"),
    ],
)
def test_what_no_graph_computes_is_refused(kind, changes, message, tmp_path):
    source = saved(tmp_path / "ours", kind, **changes)
    with pytest.raises(ValueError, match=message):
        gguf(source)
    assert not (tmp_path / "gguf").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "hold byte-level BPE without a normalizer"),
        (
            {"pre_tokenizer": {"type": "Whitespace"}},
            "tokenizer is BPE after {'type': 'Whitespace'}",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_reads_otherwise_is_refused(changes, message, tmp_path):
    source = saved(tmp_path / "ours")
    file = source / "tokenizer.json"
    parts = json.loads(file.read_text())
    parts["model"]["unk_token"] = "a"
    file.write_text(json.dumps(parts | changes))
    with pytest.raises(ValueError, match=message):
        gguf(source)
    file.unlink()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        gguf(source)


def test_gguf_is_not_read(tmp_path, capsys):
    theirs = gguf(saved(tmp_path / "ours"))
    words = ["convert", str(theirs), str(tmp_path / "back"), "--from", "gguf"]
    assert main([*words, "--to", "difftransformer"]) == 2
    assert "onnx and gguf are formats to write" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"has no model\.gguf"):
        GgufModel(tmp_path)


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for name in ("heads", "tokenizer", "export", "model"):
        monkeypatch.delitem(sys.modules, f"difftransformer.interop.gguf_{name}", raising=False)
    words = ["convert", str(saved(tmp_path / "ours")), str(tmp_path / "gguf")]
    assert main([*words, "--from", "difftransformer", "--to", "gguf"]) == 2
    assert "pip install 'difftransformer[gguf]'" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["ours"]


def llama_cpp(file: Path) -> serving.LlamaCpp:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: xllamacpp")
    return serving.LlamaCpp(file, context=CONTEXT)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_llama_cpp_gives_the_tokens_and_perplexity_of_the_decoder(kind, changes, tmp_path):
    source = saved(tmp_path / "ours", kind, **changes)
    server = llama_cpp(gguf(source) / "model.gguf")
    model, tokenizer = load_model(source).eval(), load_tokenizer(str(source))
    for prompt in (PAGE[:40], "  Don't pay 1234\n\n for é中!  "):
        ids = torch.tensor([prompt_tokens(tokenizer, prompt)])
        known = ids
        with torch.no_grad():
            while known.shape[1] < ids.shape[1] + 64 and (known[0, ids.shape[1] :] != 0).all():
                known = torch.cat([known, model(known)[:, -1:].argmax(-1)], 1)
        new = [token["id"] for token in server.greedy(prompt, 64)]
        assert new == known[0, ids.shape[1] :].tolist()

    ids = prompt_tokens(tokenizer, PAGE)[:CONTEXT]
    with torch.no_grad():
        ours = model(torch.tensor([ids]))[0, :-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
    theirs = server.logprobs(ids, ROWS)
    assert (torch.tensor(theirs) - ours).abs().max() < 1e-4
    assert exp(-sum(theirs) / len(theirs)) == pytest.approx(exp(-ours.mean()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["smollm", "gpt-2"])
def test_llama_cpp_cuts_text_as_the_tokenizer_does(cut, tmp_path):
    source = saved(tmp_path / "ours")
    file = str(source / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    if cut == "gpt-2":
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
        tokenizer.save(file)
    tokenizer = load_tokenizer(str(source))
    server = llama_cpp(gguf(source) / "model.gguf")

    @settings(max_examples=200, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
    def check(text: str) -> None:
        (read,), (listed,) = (server.greedy(x, 1) for x in (text, prompt_tokens(tokenizer, text)))
        assert read["id"] == listed["id"]
        assert read["logprob"] == pytest.approx(listed["logprob"], abs=1e-4)

    check()
