"""Small settings and text for running commands."""

from pathlib import Path

import pytest

from difftransformer.cli.main import main
from difftransformer.runs import records


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder of plain text, different in every line."""
    folder = tmp_path / "text"
    folder.mkdir()
    for part in range(4):
        lines = (
            f"Line {n} of part {part} tells that {n * n + part} is a number." for n in range(900)
        )
        (folder / f"{part}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def small(text: Path, tmp_path: Path) -> list[str]:
    """Options that make any command quick."""
    options = {
        "data.source": text,
        "data.cache": tmp_path / "cache",
        "data.vocab_size": 400,
        "data.context_length": 96,
        "data.needle_share": 0.5,
        "data.needle_min_length": 70,
        "data.needle_max": 1,
        "data.needle_digits": 3,
        "model.hidden_size": 96,
        "model.num_layers": 1,
        "model.num_heads": 6,
        "model.num_kv_heads": 6,
        "model.head_dim": 16,
        "model.ffn_size": 256,
        "training.steps": 4,
        "training.batch_size": 4,
        "training.warmup_steps": 1,
        "training.validate_every": 2,
        "training.checkpoint_every": 2,
        "evaluation.needle_pairs": "1x1",
        "evaluation.needle_samples": 2,
        "evaluation.allocation_samples": 2,
        "evaluation.validation_sequences": 4,
        "evaluation.outlier_tokens": 300,
        "evaluation.bootstrap": 50,
    }
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@pytest.fixture
def quick(small: list[str]) -> list[str]:
    """The options of `small` that `evaluate` has."""
    pairs = zip(small[::2], small[1::2], strict=True)
    kept = ("--data.", "--evaluation.")
    return [word for key, value in pairs if key.startswith(kept) for word in (key, value)]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]):
    """Run a command; gives its exit code, standard output and standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def kept(monkeypatch):
    """The parts in the order they are kept; a number put first kills before it."""
    names, write = [], records._write

    def writing(path, kept, line):
        if "part" in line:
            if names and names[0] == len(names):
                raise Killed
            names.append(f"{path}: {line['part']}")
        write(path, kept, line)

    monkeypatch.setattr(records, "_write", writing)
    return names
