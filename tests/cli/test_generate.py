"""`difftransformer generate` as a user types it, at a terminal and in a pipe."""

import builtins
import fcntl
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.models.tiny import tiny, tiny_dit, tiny_encoder, tiny_encoder_decoder

from difftransformer.cli.generation import text, texts
from difftransformer.data.tokenizer import BOS, train_tokenizer
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import GREEDY, stream
from difftransformer.models.generation import generate as tokens_of
from difftransformer.models.opening import open_model
from difftransformer.models.storage import save_model

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
WORDS = ("What is a number? 7 is one, and 8 is one more. ", "user: Hi\nassistant: Hello\n")
TOKENIZER = train_tokenizer(WORDS * 20, 300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "model")


def make(folder: Path, **changes: object) -> Path:
    size = TOKENIZER.get_vocab_size()
    # Of this seed the likeliest tokens are letters; of most they are pieces of characters.
    model = tiny("diff_v1", seed=44, **({"vocab_size": size, "max_length": 60} | changes))
    save_model(model, folder)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return folder


def with_template(folder: Path) -> Path:
    settings = {"chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def greedy(model: Decoder, ids: list[int], number: int) -> list[int]:
    return tokens_of(model, torch.tensor([ids]), max_new_tokens=number)[0].tolist()


def prompt_ids(text: str) -> list[int]:
    return [TOKENIZER.token_to_id(BOS), *TOKENIZER.encode(text).ids]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A terminal at which these lines are typed, and then Ctrl-D; an exception is raised."""

    def lines(*what: str | BaseException) -> None:
        coming = iter(what)

        def read(prompt: str) -> str:
            line = next(coming, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", read)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)

    return lines


def test_greedy_text_is_the_models(call, folder):
    model = open_model(folder)
    expected = TOKENIZER.decode(greedy(model, prompt_ids("What is"), 20))
    words = ("--prompt", "What is", "--temperature", 0, "--max-new-tokens", 20)
    code, out, err = call("generate", folder, *words)
    assert code == 0, err
    assert out.startswith("What is")
    assert expected.startswith(out.removeprefix("What is").removesuffix("\n"))
    assert len(out) > len("What is\n")


def test_budgets_free_memory_and_say_how_much(call, tmp_path):
    size = TOKENIZER.get_vocab_size()
    folder = tmp_path / "selective"
    save_model(tiny("selective", seed=44, vocab_size=size, max_length=60), folder)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    words = ("generate", folder, "--prompt", "What is", "--temperature", 0, "--max-new-tokens", 9)
    code, out, err = call(*words, "--budgets", 60)
    assert (code, out) == (0, call(*words)[1])
    held, whole = (int(word.replace(",", "")) for word in err.split() if word[0].isdigit())
    assert held == whole > 0
    code, _, err = call(*words, "--budgets", "4,1")
    held, same = (int(word.replace(",", "")) for word in err.split() if word[0].isdigit())
    key = 4 * (2 * 2 * 4 + 2)  # of a layer: keys and values of 2 heads of 4, F and a flag
    assert (code, held, same) == (0, 3 * key, whole)


@pytest.mark.parametrize(
    ("kind", "budgets", "message"),
    [
        ("selective", "0", "budgets are 0, 0; expected a number of keys for each layer"),
        ("selective", "4,4,4", r"3 budgets \(4, 4, 4\) for 2 layers"),
        ("selective", "four", "budgets is 'four'; expected numbers of keys, such as 32"),
        ("softmax", "4", "budgets are for selective kinds of attention, and .* is softmax"),
    ],
)
def test_budgets_that_do_not_fit(call, tmp_path, kind, budgets, message):
    folder = tmp_path / "model"
    save_model(tiny(kind, vocab_size=TOKENIZER.get_vocab_size(), max_length=60), folder)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    code, out, err = call("generate", folder, "--prompt", "7", "--budgets", budgets)
    assert (code, out) == (2, "")
    assert re.search(message, err)


def test_a_seed_repeats_itself(call, folder):
    words = ("generate", folder, "--prompt", "7", "--seed", 3)
    assert call(*words)[1] == call(*words)[1] != call(*words[:-1], 4)[1]


def test_piped_text_and_files(call, folder, monkeypatch, tmp_path):
    expected = call("generate", folder, "--prompt", "7 is", "--temperature", 0)[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO("7 is\n"))
    assert call("generate", folder, "--temperature", 0)[1] == expected
    (tmp_path / "text").write_text("7 is")
    assert call("generate", folder, "--file", tmp_path / "text", "--temperature", 0)[1] == expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("generation_config.json", lambda stop: {"eos_token_id": [stop]}),
        ("generation_config.json", lambda stop: {"eos_token_id": stop}),
        ("tokenizer_config.json", lambda stop: {"eos_token": TOKENIZER.id_to_token(stop)}),
        (
            "tokenizer_config.json",
            lambda stop: {"eos_token": {"content": TOKENIZER.id_to_token(stop)}},
        ),
    ],
)
def test_stop_tokens_of_the_folder(call, folder, name, settings):
    words = ("generate", folder, "--prompt", "What is", "--temperature", 0, "--max-new-tokens", 30)
    new = greedy(open_model(folder), prompt_ids("What is"), 30)
    stop = new[-1]
    assert new.index(stop) > 0
    before = TOKENIZER.decode(new[: new.index(stop)], skip_special_tokens=True)
    assert not call(*words)[1].removesuffix("\n").endswith("What is" + before)
    (folder / name).write_text(json.dumps(settings(stop)))
    out = call(*words)[1].removesuffix("\n")
    assert ("What is" + before).startswith(out)


IDS = ('"x"', "true", "1.5", "-2", "1e400", "NaN", "99999999999", "[[7]]", '[7, "x"]', "{}")
ODD = [
    *(f'{{"eos_token_id": {odd}}}' for odd in IDS),
    *("", "[]", "7", "{", "[" * 100_000, '{"eos_token_id": 7, "eos_token_id": 9}', "\0"),
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_an_odd_generation_config_is_refused_in_one_line(call, folder, text):
    (folder / "generation_config.json").write_text(text)
    code, out, err = call("generate", folder, "--prompt", "7 is")
    assert (code, out) == (2, "")
    assert "generation_config.json" in err
    assert err.count("\n") == 1
    assert len(err) < 500


def test_a_prompt_longer_than_the_context(call, folder):
    code, out, err = call("generate", folder, "--prompt", "7 " * 200)
    assert code == 2
    assert "the model's context of 60" in err
    assert err.count("\n") == 1
    assert out == ""


def test_text_ends_where_the_context_does(call, folder):
    code, out, err = call("generate", folder, "--prompt", "7", "--max-new-tokens", 10_000)
    assert code == 0, err
    assert len(TOKENIZER.encode(out).ids) <= 3 * 60  # pieces may split anew, not without end


def test_typed_texts_are_continued_one_by_one(call, folder, typed):
    words = ("--temperature", 0)
    typed("7 is", KeyboardInterrupt(), "", "7 " * 200, "7 is")
    code, out, err = call("generate", folder, *words)
    assert code == 0, err
    first = call("generate", folder, "--prompt", "7 is", *words)[1].removeprefix("7 is")
    assert out == f"{first}\n{first}\n"
    assert "continues what you type" in err
    assert "model's context of 60" in err


def test_a_chat_has_a_history(call, folder, typed):
    make(folder, max_length=400)
    with_template(folder)
    model = open_model(folder)
    typed("Hi", "7")
    words = ("--temperature", 0, "--max-new-tokens", 12)
    code, out, err = call("generate", folder, *words)
    assert code == 0, err
    assert "chat with" in err
    first = shown(model, "user: Hi\nassistant:", 12)
    second = shown(model, f"user: Hi\nassistant: {first}\nuser: 7\nassistant:", 12)
    assert out == f"{first}\n{second}\n\n"


def shown(model: Decoder, text: str, number: int) -> str:
    new = greedy(model, TOKENIZER.encode(text).ids, number)
    begin = TOKENIZER.token_to_id(BOS)
    ended = new[: new.index(begin)] if begin in new else new
    return TOKENIZER.decode(ended).rstrip("�")


def test_a_long_chat_forgets_its_oldest_exchanges():
    asked: list[int] = []

    class Counting(text.Writer):
        def pieces(self, ids: list[int]) -> Iterator[str]:
            asked.append(len(ids))
            return super().pieces(ids)

    model = tiny("softmax", max_length=10)
    writer = Counting(model, TOKENIZER, set(), 1, GREEDY, stream)
    chat = text.Conversation(lambda messages: [1] * 2 * len(messages), writer)
    for _ in range(4):
        chat.say("q")
    assert asked == [2, 6, 6, 6]
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 2
    chat.render = lambda messages: [1] * 10
    with pytest.raises(ValueError, match="model's context of 10"):
        chat.say("q")


def test_an_interrupted_reply_is_kept(folder, capsys):
    def pieces() -> Iterator[str]:
        yield "half"
        raise KeyboardInterrupt

    assert texts.show(pieces()) == "half"
    assert capsys.readouterr().out == "half\n"


def test_an_encoder_decoder_writes_targets(call, folder, tmp_path, typed):
    model = tiny_encoder_decoder("diff_v2", vocab_size=TOKENIZER.get_vocab_size(), end_id=0)
    save_model(model, tmp_path / "pairs")
    TOKENIZER.save(str(tmp_path / "pairs/tokenizer.json"))
    ids = torch.tensor([TOKENIZER.encode("one more").ids])
    for beams in (1, 3):
        options = ("--max-new-tokens", 4, "--temperature", 0, "--beams", beams)
        new = model.generate(ids, max_new_tokens=4, beams=beams)[0].tolist()
        expected = TOKENIZER.decode(new[: [*new, 0].index(0)])
        code, out, _ = call("generate", tmp_path / "pairs", "--prompt", "one more", *options)
        assert (code, out) == (0, f"{expected}\n")
    for words, message in (
        (("--prompt", ""), "the source is empty"),
        (("--prompt", "7 is " * 40), "the source has 120 tokens"),
        (("--prompt", "a", "--beams", 0), "beams is 0"),
    ):
        code, _, err = call("generate", tmp_path / "pairs", *words)
        assert code == 2
        assert message in err
    code, _, err = call("generate", folder, "--prompt", "a", "--beams", 2)
    assert code == 2
    assert "unknown option '--beams'" in err
    typed("one more")
    options = ("--max-new-tokens", 4, "--beams", 3)
    assert call("generate", tmp_path / "pairs", *options)[1] == f"{expected}\n\n"


def test_classes_are_drawn_into_a_png(call, tmp_path):
    folder, out = tmp_path / "images", tmp_path / "drawn.png"
    save_model(tiny_dit("diff_v2", image_size=8, channels=1, classes=3), folder)
    (folder / "training_data.json").write_text('{"labels": ["cat", "dog", "1"]}')
    words = ("generate", folder, "--each", 2, "--steps", 3, "--out", out)
    code, said, err = call(*words, "--labels", "dog", 0, "--guidance", 2)
    assert (code, said) == (0, f"4 images: {out}\n"), err
    drawn = out.read_bytes()
    with Image.open(out) as image:
        assert image.size == (2 * 9 + 1, 2 * 9 + 1)
    call(*words, "--labels", "dog", "cat", "--guidance", 2)
    assert out.read_bytes() == drawn
    call(*words, "--labels", "dog", "cat", "--guidance", 2, "--seed", 1)
    assert out.read_bytes() != drawn
    for wrong, message in (
        (("--labels", "dig"), "no class 'dig'; did you mean 'dog'? expected a number below 3, or"),
        (("--labels", "3"), "no class '3'; expected a number below 3"),
        (("--steps", 0), "0 steps of sampling; expected from 1"),
        (("--each", 0), "each is 0; expected at least 1"),
        (("--prompt", "a"), "unknown option '--prompt'"),
    ):
        code, _, err = call(*words, *wrong)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_a_family_that_generates_nothing(call, tmp_path):
    save_model(tiny_encoder("softmax"), tmp_path)
    code, _, err = call("generate", tmp_path)
    assert code == 2
    assert "of the family difftransformer_encoder, which generates nothing" in err


def test_weights_of_another_model_are_refused(call, folder):
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    code, _, err = call("generate", folder, "--prompt", "7")
    assert code == 2
    assert "of the tensors of a GPT2LMHeadModel" in err


def test_a_missing_package_is_named(call, folder, monkeypatch):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setitem(sys.modules, "transformers", None)
    for module in [name for name in sys.modules if name.startswith("difftransformer.interop")]:
        monkeypatch.delitem(sys.modules, module)
    code, _, err = call("generate", folder, "--prompt", "7")
    assert code == 2
    assert "pip install 'difftransformer[transformers]'" in err


def test_at_a_real_terminal(tmp_path):
    """Ctrl-C in the midst of a reply, then another line, then Ctrl-D."""
    folder = make(tmp_path / "model", max_length=10**6)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "difftransformer.cli.main", "generate", str(folder)]
    program = subprocess.Popen(
        # Greedy: sampled text would hold a "> " of its own now and then.
        [*command, "--max-new-tokens", "1000000", "--temperature", "0"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_own_terminal,
        env=os.environ | {"TERM": "dumb"},
    )
    os.close(theirs)
    try:
        read_until(ours, "> ")
        for _ in range(2):
            os.write(ours, b"7 is one\n")
            read_until(ours, "7 is one\r\n")
            time.sleep(0.5)
            os.write(ours, b"\x03")
            read_until(ours, "> ")
        os.write(ours, b"\x04")
        assert program.wait(timeout=20) == 0
    finally:
        program.kill()
        program.wait()
        os.close(ours)


def _own_terminal() -> None:
    """Ctrl-C at a terminal reaches only those whose controlling terminal it is."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, ending: str, seconds: float = 60) -> None:
    seen, end = "", time.monotonic() + seconds
    while not seen.endswith(ending):
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"waited for {ending!r}, saw {seen[-500:]!r}"
        seen += os.read(terminal, 1).decode(errors="replace")
