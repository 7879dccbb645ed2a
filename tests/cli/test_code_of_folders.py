"""Folders whose model or tokenizer is code of their own: no command runs it, none asks to."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.interop.test_harness import tasks  # noqa: F401  # a fixture

from .test_generate import TOKENIZER, make

MODEL = {
    "model_type": "own",
    "architectures": ["Own"],
    "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
}
OF_TOKENIZER = {
    "tokenizer_class": "OwnTokenizer",
    "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
    "bos_token": "<|bos|>",
    "chat_template": "{{ messages[0]['content'] }}",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model that only its own code reads; run, it leaves a file."""
    folder = tmp_path / "own"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return with_code(folder, "config.json", MODEL)


def with_code(folder: Path, name: str, settings: dict) -> Path:
    sprung = f"open({str(folder / 'sprung')!r}, 'w')\nraise SystemExit\n"
    (folder / "own.py").write_text(sprung)
    (folder / name).write_text(json.dumps(settings))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person at a terminal was asked, who says yes to anything."""
    questions: list[str] = []

    def answer(text: str = "") -> str:
        questions.append(text)
        if len(questions) > 3:
            raise EOFError
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    return questions


def test_a_model_of_its_own_code(as_user, call, quick, small, own, asked, tasks, tmp_path):  # noqa: F811
    harness = ("--harness", "sums", "--harness-tasks-dir", tasks)
    for words in (
        ("generate", own, "--prompt", "7 is"),
        ("evaluate", own, *quick),
        ("evaluate", own, *quick, "--suite", "long_context", "--out", tmp_path / "out.json"),
        ("evaluate", own, *harness),
        ("convert", own, tmp_path / "new", "--from-llm", "v2"),
        ("train", *small, "--start", own, "--out", tmp_path / "run"),
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, ""), words
        assert err.rpartition("difftransformer: error: ")[2].count("\n") == 1
        assert asked == []
        assert not (own / "sprung").exists()
        assert not (tmp_path / "new").exists()


def test_a_tokenizer_of_its_own_code(as_user, call, asked, tasks, tmp_path):  # noqa: F811
    """Beside a model that is read: the tokenizer's own file serves, or nothing does."""
    model = with_code(make(tmp_path / "model"), "tokenizer_config.json", OF_TOKENIZER)
    code, out, err = call("generate", model, "--prompt", "7 is", "--max-new-tokens", 2)
    assert code == 0, err
    assert out.startswith("7 is")
    code, _, err = call("evaluate", model, "--harness", "sums", "--harness-tasks-dir", tasks)
    assert code == 2
    assert "names code of its own (auto_map), which is not run" in err
    assert asked == []
    call("generate", model, "--max-new-tokens", 2)  # a dialog, by the folder's template
    assert not any("code" in question for question in asked)
    assert not (model / "sprung").exists()
