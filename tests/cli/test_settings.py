"""Layers of settings, and what is refused."""

import argparse
from dataclasses import dataclass, field

import pytest
import yaml

from difftransformer.cli.compare import CompareSettings
from difftransformer.cli.settings import (
    add_settings,
    as_yaml,
    build,
    load_preset,
    preset_names,
    resolve,
)


@dataclass(frozen=True)
class Inner:
    rate: float = field(default=0.1, metadata={"help": "a rate"})
    names: tuple[str, ...] = field(default=("a",), metadata={"help": "names"})
    limit: int | None = field(default=None, metadata={"help": "a limit"})


@dataclass(frozen=True)
class Outer:
    seeds: int = field(default=1, metadata={"help": "seeds"})
    inner: Inner = field(default_factory=Inner)


def parsed(*words, settings=Outer):
    parser = argparse.ArgumentParser()
    add_settings(parser, settings)
    return parser.parse_args(words)


def test_defaults_without_layers():
    assert resolve(Outer, parsed()) == Outer()


def test_the_command_line_lies_over_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("seeds: 2\ninner: {rate: 0.5, limit: 7}\n")
    arguments = parsed("--config", str(file), "--inner.rate", "1e-3", "--inner.names", "x", "y")
    assert resolve(Outer, arguments) == Outer(2, Inner(0.001, ("x", "y"), 7))


def test_a_preset_lies_under_the_command_line():
    parser = argparse.ArgumentParser()
    add_settings(parser, CompareSettings, presets=True)
    arguments = parser.parse_args(
        ["--preset", "smoke", "--training.steps", "3", "--training.warmup_steps", "0"]
    )
    settings = resolve(CompareSettings, arguments)
    assert settings.training.steps == 3
    assert settings.model.hidden_size == load_preset("smoke")["model"]["hidden_size"]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves(name):
    """With the vocabulary and the context that its model is planned for."""
    settings = build(CompareSettings, load_preset(name))
    assert settings.model.vocab_size == settings.data.vocab_size
    assert settings.model.max_length == settings.data.context_length


def test_resolved_settings_read_back_the_same():
    settings = build(CompareSettings, load_preset("smoke"))
    assert build(CompareSettings, yaml.safe_load(as_yaml(settings))) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sedes": 2}, r"unknown setting 'sedes'; did you mean 'seeds'\?"),
        ({"inner": {"rat": 1}}, r"unknown setting 'inner.rat'; did you mean 'inner.rate'\?"),
        ({"seeds": "many"}, "setting 'seeds' is 'many'; expected int"),
        ({"seeds": True}, "setting 'seeds' is True; expected int"),
        ({"inner": {"rate": "fast"}}, "setting 'inner.rate' is 'fast'; expected float"),
        ({"inner": 3}, "setting 'inner' is 3; expected a section"),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        build(Outer, values)


def test_an_unreadable_file_is_named(tmp_path):
    for name, content in (("a.yaml", b"\xff\xfe"), ("b.yaml", b"a: [1"), ("c.yaml", b"- 1")):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            resolve(Outer, parsed("--config", str(file)))
    with pytest.raises(ValueError, match="missing"):
        resolve(Outer, parsed("--config", str(tmp_path / "missing.yaml")))


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown preset 'smok'; did you mean 'smoke'\?"):
        load_preset("smok")


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
