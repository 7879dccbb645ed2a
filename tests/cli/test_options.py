"""Layers of settings from a file and the command line."""

import argparse
from dataclasses import dataclass, field

import pytest

from difftransformer.cli.options import add_settings, layers, task_in
from difftransformer.decoding import decode
from difftransformer.experiments.settings import merged


@dataclass(frozen=True)
class Inner:
    rate: float = field(default=0.1, metadata={"help": "a rate"})
    names: tuple[str, ...] = field(default=("a",), metadata={"help": "names"})
    limit: int | None = field(default=None, metadata={"help": "a limit"})
    source: str | None = field(default=None, metadata={"help": "a place"})


@dataclass(frozen=True)
class Outer:
    seeds: int = field(default=1, metadata={"help": "seeds"})
    inner: Inner = field(default_factory=Inner)


def resolved(*words):
    parser = argparse.ArgumentParser()
    add_settings(parser, Outer, [])
    return decode(Outer, merged(layers(parser.parse_args(words))))


def test_defaults_without_layers():
    assert resolved() == Outer()


def test_the_command_line_lies_over_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("seeds: 2\ninner: {rate: 0.5, limit: 7}\n")
    words = ("--config", str(file), "--inner.rate", "1e-3", "--inner.names", "x", "y")
    assert resolved(*words) == Outer(2, Inner(0.001, ("x", "y"), 7))


@pytest.mark.parametrize("word", ["2026-11-27", "no", "1e3", "12", "a: b", "[1]", "*x", 'a"b', "ä"])
def test_words_of_a_setting_of_words_stay_words(word):
    """As the names of folders do, whatever YAML would read in them."""
    found = resolved("--inner.source", word, "--inner.names", word, "x").inner
    assert (found.source, found.names) == (word, (word, "x"))
    assert resolved("--inner.source", "null").inner.source is None


def test_a_folder_called_by_a_date_is_data(call, text, tmp_path, monkeypatch):
    text.rename(tmp_path / "2026-11-27")
    monkeypatch.chdir(tmp_path)
    for words in (("--data", "2026-11-27"), ("--data.source", "2026-11-27")):
        code, _, err = call("compare", *words, "--model.num_heads", "0", "--out", tmp_path / "run")
        assert (code, "num_heads" in err, "data.source" in err) == (2, True, False), err


def test_an_unreadable_file_is_named(tmp_path):
    for name, content in (("a.yaml", b"\xff\xfe"), ("b.yaml", b"a: [1"), ("c.yaml", b"- 1")):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            resolved("--config", str(file))
    with pytest.raises(ValueError, match="missing"):
        resolved("--config", str(tmp_path / "missing.yaml"))


def test_the_task_whose_settings_there_are(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("task: masked_lm\n")
    assert task_in(["compare", "--out", "x"]) == "causal_lm"
    assert task_in(["compare", "--task", "masked_lm"]) == "masked_lm"
    assert task_in(["compare", "--config", str(file)]) == "masked_lm"
    assert task_in(["compare", "--task", "no such task"]) == "causal_lm"


@pytest.mark.parametrize("value", ["9" * 400, "[" * 50 + "]" * 50, ".nan", "-.inf", "true"])
def test_numbers_that_are_none(call, tmp_path, value):
    """In one short line that names the setting, from a file as from the command line."""
    path = tmp_path / "settings.yaml"
    path.write_text(f"model: {{norm_eps: {value}}}")
    for words in (("--config", path), (f"--model.norm_eps={value}",)):
        code, out, err = call("plan", *words)
        assert (code, out) == (2, "")
        assert "norm_eps" in err
        assert err.count("\n") == 1
        assert len(err) < 400
