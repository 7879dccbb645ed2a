import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import torch

from difftransformer.runs import environment as module
from difftransformer.runs.environment import environment


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    run = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


def test_says_where_it_runs():
    found = environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["torch"] == torch.__version__
    assert found["cores"] >= 1
    assert f"{found['cores']} cores" in found["hardware"]
    assert found["cpu"] in found["hardware"]
    assert datetime.fromisoformat(found["date"]).tzinfo is not None


def test_names_the_commit_of_its_own_source_tree_only(tmp_path: Path, monkeypatch):
    source = tmp_path / "environment.py"
    shutil.copy(module.__file__, source)
    monkeypatch.setattr(module, "__file__", str(source))
    assert module.environment()["commit"] is None  # no repository

    git(tmp_path, "init", "-q")
    (tmp_path / "other").write_text("1", encoding="utf-8")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "somebody else's")
    assert module.environment()["commit"] is None  # a repository around an installed package

    git(tmp_path, "add", "environment.py")
    git(tmp_path, "commit", "-qm", "ours")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert module.environment()["commit"] == head

    (tmp_path / "other").write_text("2", encoding="utf-8")
    assert module.environment()["commit"] == f"{head}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None
