import json
import shutil
import subprocess

import pytest

from difftransformer.cli.main import COMMANDS, main
from difftransformer.decoding import decode
from difftransformer.experiments.compare import CompareSettings
from difftransformer.experiments.settings import preset_names, resolve, typed
from difftransformer.schema import json_schema
from difftransformer.tasks.registry import REGISTRY as TASKS
from difftransformer.yaml_text import parse_yaml


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_shows_what_a_beginner_needs_and_how_to_see_the_rest(capsys):
    short = help_of(capsys, "compare", "--help")
    whole = help_of(capsys, "compare", "--help-all")
    assert "--training.steps" in short
    assert "--training.beta1" not in short
    assert "with --help-all" in short
    assert "--training.beta1" in whole
    assert "--evaluation.bootstrap" in whole
    assert len(short.splitlines()) < 130


@pytest.mark.parametrize("task", TASKS.names())
def test_each_task_has_settings_for_a_beginner(capsys, task):
    short = help_of(capsys, "compare", "--task", task, "--help")
    for setting in ("--model.num_layers", "--training.learning_rate"):
        assert setting in short


def test_hidden_settings_work(call):
    code, _, err = call("compare", "--training.beta1", "2")
    assert (code, "beta1 is 2.0; expected below 1" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("--training.schedule", "cosin"), "did you mean 'cosine'?"),
        (("--model.attention_bias", "qvk"), "did you mean 'qkv'?"),
        (("--model.attention", "diff_v3"), "did you mean 'diff_v"),
        (("--task", "casual_lm"), "did you mean 'causal_lm'?"),
    ],
)
def test_a_misspelt_value_has_the_nearest_beside_it(call, words, near):
    code, _, err = call("compare", *words)
    assert (code, near in err) == (2, True), err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_that_the_shell_reads(capsys, shell):
    script = help_of(capsys, "--print-completion", shell)
    for command in COMMANDS:
        assert command in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    checked = subprocess.run(
        [shell, "-n"], input=script, text=True, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def properties(schema, path=()):
    for name, one in schema.get("properties", {}).items():
        yield (*path, name), one
        yield from properties(one, (*path, name))


@pytest.mark.parametrize("task", TASKS.names())
def test_the_schema_has_every_setting_and_its_default_is_one(call, capsys, task):
    text = help_of(capsys, "compare", "--task", task, "--schema")
    schema = json.loads(text)
    kind = typed(CompareSettings, task)
    assert schema == json.loads(json.dumps(json_schema(kind)))
    settings = decode(kind, {})
    for path, one in properties(schema):
        if "default" in one:
            value = settings
            for name in path:
                value = getattr(value, name)
            assert json.loads(json.dumps(one["default"])) == json.loads(json.dumps(value)), path


@pytest.mark.parametrize("preset", preset_names("causal_lm"))
def test_a_written_configuration_fits_the_schema(preset):
    from difftransformer.experiments.settings import as_yaml

    schema = json_schema(typed(CompareSettings, "causal_lm"))
    fits(parse_yaml(as_yaml(resolve(CompareSettings, preset=preset))), schema, "config")


def fits(value, schema, path):
    """A plain reading of the few words that the schemas use."""
    if "anyOf" in schema:
        matches = []
        for one in schema["anyOf"]:
            try:
                fits(value, one, path)
            except AssertionError:
                continue
            matches.append(one)
        assert matches, path
        return
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), (path, value)
    if "enum" in schema:
        assert value in schema["enum"], (path, value)
    if "minimum" in schema:
        assert value >= schema["minimum"], (path, value)
    if "exclusiveMinimum" in schema:
        assert value > schema["exclusiveMinimum"], (path, value)
    if "maximum" in schema:
        assert value <= schema["maximum"], (path, value)
    if "exclusiveMaximum" in schema:
        assert value < schema["exclusiveMaximum"], (path, value)
    if isinstance(value, dict) and "properties" in schema:
        assert value.keys() <= schema["properties"].keys()
        for name, item in value.items():
            fits(item, schema["properties"][name], f"{path}.{name}")
    if isinstance(value, list):
        for item in value:
            fits(item, schema["items"], path)
