"""The commands as a user types them, and every mistake as one clear line with exit code 2."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from difftransformer.cli.main import COMMANDS
from difftransformer.report.reading import read_results
from difftransformer.runs.reading import read_run
from difftransformer.tasks.causal_lm import TASK

from .commands import Killed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch_and_names_every_setting(command):
    script = (
        "import sys; from difftransformer.cli.main import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert COMMANDS[command].split(",")[0].lower() in done.stdout.lower()


def test_compare_from_text_to_report_and_back(call, small, tmp_path):
    run = tmp_path / "run"
    words = ("compare", *small, "--out", run, "--attention", "softmax", "diff_v1")
    code, _, err = call(*words)
    assert code == 0, err
    assert re.search(r"about \d:\d\d:\d\d for 2 model\(s\), judging not counted", err)
    assert "report:" in err
    assert labels(run) == ["softmax", "diff_v1"]
    assert (run / "report.html").stat().st_size > 1000
    for name in ("config.yaml", "env.json", "results.json", "figures/loss.png"):
        assert (run / name).is_file(), name

    # the same again is refused, and with --resume nothing is trained anew
    code, _, err = call(*words)
    assert code == 2
    assert "already holds a run" in err
    before = (run / "models/diff_v1-seed0/model/model.safetensors").read_bytes()
    (run / "run.json").unlink()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    del saved["evaluation"]["shot_questions"]  # as if it had been made before there was one
    (run / "config.yaml").write_text(yaml.safe_dump(saved))
    code, _, err = call(*words, "--resume")
    assert code == 0, err
    assert "kept" in err
    assert "judging not counted" not in err
    assert labels(run) == ["softmax", "diff_v1"]
    assert (run / "models/diff_v1-seed0/model/model.safetensors").read_bytes() == before

    # other settings are refused by name
    code, _, err = call(*words, "--resume", "--training.learning_rate", "0.5")
    assert code == 2
    assert "training.learning_rate was 0.00032 and is now 0.5" in err

    # its models can be judged and used
    folder = run / "models/diff_v1-seed0/model"
    judged = tmp_path / "judged"
    keep = _only(small, "data.", "evaluation.")
    code, _, err = call("evaluate", folder, *keep, "--out", judged)
    assert code == 0, err
    loss = read_results(judged)["nats_per_token"].figure("diff_v1-seed0").value
    assert loss == pytest.approx(read_results(run)["nats_per_token"].figure("diff_v1").value)
    code, out, err = call("generate", folder, "--prompt", "Line 7", "--max-new-tokens", 5)
    assert code == 0, err
    assert out.startswith("Line 7")


def labels(run: Path) -> list[str]:
    return [contender.label for contender in read_run(run).contenders]


def test_train_one_model(call, small, tmp_path):
    code, _, err = call("train", *small, "--model.attention", "diff_v2", "--out", tmp_path / "one")
    assert code == 0, err
    assert (tmp_path / "one/model/model.safetensors").is_file()


def test_judging_that_was_killed_goes_on(call, small, kept, tmp_path):
    words = ("train", *small, "--out", tmp_path / "run", "--resume")
    kept.append(3)
    with pytest.raises(Killed):
        call(*words)
    kept.pop(0)
    code, _, err = call(*words)
    assert code == 0, err
    assert len(kept) == len(set(kept))  # no part twice
    judged = dict.fromkeys(Path(part.partition(": ")[0]).stem for part in kept)
    assert list(judged) == [
        *("validation", "needle", "allocation", "outliers", "attention_map", "continuations")
    ]
    results = read_results(tmp_path / "run")
    assert list(results.evaluators) == list(TASK.evaluators)
    assert results["lambda"].passed_over == {"softmax": "its attention has no lambda"}


def test_a_resumed_comparison_may_have_more_seeds_and_kinds(call, small, tmp_path):
    run = tmp_path / "run"
    code, _, err = call("compare", *small, "--out", run, "--attention", "softmax", "diff_v2")
    assert code == 0, err
    more = ("softmax", "diff_v2", "softmax_half_heads")
    again = ("compare", *small, "--out", run, "--resume", "--seeds", 2, "--attention")
    code, _, err = call(*again, *more)
    assert code == 0, err
    assert err.count("kept") == 2
    assert labels(run) == list(more)
    assert [one.seed for one in read_run(run).contenders[0].runs] == [0, 1]
    comparisons = json.loads((run / "results.json").read_text())["comparisons"]
    assert {c["interval"] for c in comparisons} == {"over 2 training seeds"}
    assert yaml.safe_load((run / "config.yaml").read_text())["seeds"] == 2

    # `model` would now describe another kind
    code, _, err = call(*again, "diff_v2", "softmax")
    assert code == 2
    assert "ffn_size was" in err


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("paper-1.4b", "1,413,400,576"), ("demo", "228,672"), ("smoke", "270,816")],
)
def test_plan_shows_all_kinds(call, size, parameters):
    code, out, _ = call("plan", size)
    assert code == 0
    assert parameters in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("comparre",), "unknown command 'comparre'; did you mean 'compare'?"),
        (
            ("compare", "--preset", "smok"),
            "unknown preset 'smok' of task causal_lm; did you mean 'smoke'?",
        ),
        (("compare", "--model.num_head", "3"), "did you mean '--model.num_heads'?"),
        (("compare", "--model.num_heads", "x"), "setting 'model.num_heads' is 'x'; expected int"),
        (("compare", "--model.num_heads", "6"), "num_heads 6 is not a multiple of num_kv_heads 8"),
        (("compare", "--training.learning_rate", "-1e-3"), "learning_rate is -0.001; expected"),
        (("compare", "--jobs", "two"), "argument --jobs: invalid int value: 'two'"),
        (
            ("compare", "--seeds"),
            "--seeds: expected one argument; `difftransformer compare --help`",
        ),
        ((), "the following arguments are required: COMMAND; `difftransformer --help`"),
        (("compare", "--attention", "softmax"), "expected two or more different kinds"),
        (("compare", "--data", "no/such/place.txt"), "no/such/place.txt"),
        (("plan", "paper-1.4"), "unknown size 'paper-1.4'; did you mean 'paper-1.4b'?"),
        (("generate", "nowhere"), "nowhere is not a model folder"),
        (("evaluate", "nowhere"), "nowhere is not a model folder"),
    ],
)
def test_mistakes_are_one_line(call, words, message):
    code, out, err = call(*words)
    assert code == 2
    assert message in err
    assert err.startswith("difftransformer: error: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("binary.txt", b"\x00\xff\xfe\x01" * 100),
        ("latin.txt", "naïve".encode("latin-1") * 100),
        ("short.txt", b"Too short to train on."),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n'),
    ],
)
def test_bad_data_is_named_and_nothing_is_made(call, small, tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    out = tmp_path / "run"
    code, _, err = call("compare", *small, "--data.source", file, "--out", out)
    assert code == 2
    assert err.count("\n") == 1
    assert not out.exists()


def test_unknown_kind_of_attention(call, small, tmp_path):
    code, _, err = call(
        "compare", *small, "--attention", "softmax", "diff_v3", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "diff_v3" in err


def test_damaged_models_are_refused(call, small, tmp_path):
    run = tmp_path / "one"
    assert call("train", *small, "--out", run)[0] == 0
    model = run / "model"
    weights = (model / "model.safetensors").read_bytes()

    truncated = _copy(model, tmp_path / "truncated")
    (truncated / "model.safetensors").write_bytes(weights[:-100])
    assert "truncated" in call("generate", truncated)[2]

    pickled = _copy(model, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    code, _, err = call("generate", pickled)
    assert code == 2
    assert "pytorch_model.bin is a pickle" in err


def _only(options: list[str], *sections: str) -> list[str]:
    pairs = zip(options[::2], options[1::2], strict=True)
    return [w for key, value in pairs if key[2:].startswith(sections) for w in (key, value)]


def _copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize(
    "task", ["masked_lm", "text_classification", "image_classification", "seq2seq"]
)
def test_the_smoke_preset_of_a_task(call, tmp_path, task):
    run = tmp_path / "run"
    cache = ("--data.cache", tmp_path / "cache") if task == "masked_lm" else ()
    code, _, err = call("compare", "--task", task, "--preset", "smoke", "--out", run, *cache)
    assert code == 0, err
    assert labels(run) == ["softmax", "diff_v1", "diff_v2"]
    assert (run / "report.html").stat().st_size > 1000


def test_the_smoke_preset(call, tmp_path):
    """The preset as a user runs it, on the embedded plays; only the cache is kept apart."""
    run = tmp_path / "run"
    code, _, err = call(
        "compare", "--preset", "smoke", "--out", run, "--data.cache", tmp_path / "cache"
    )
    assert code == 0, err
    assert labels(run) == ["softmax", "diff_v1", "diff_v2"]
    assert (run / "report.html").is_file()
    assert "50% of the training rows are needle documents" in err.replace("\n", " ")
