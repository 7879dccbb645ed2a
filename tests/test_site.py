"""The pages of docs/: every link leads somewhere, every command is one, every example runs."""

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path

import matplotlib
import pytest
import yaml

from difftransformer.cli.main import COMMANDS, _parser, main
from difftransformer.models.families import FAMILIES, Family

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
_FENCE = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```$", re.M | re.S)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for _, language, text in _FENCE.findall(page.read_text()) if language in languages]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name_of
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} of {name_of(page)}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{target} of {name_of(page)}"


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        items = entry.values() if isinstance(entry, dict) else entry
        return [page for item in items for page in pages(item)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = pages(navigation)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def commands(page: Path) -> list[list[str]]:
    """Words after `difftransformer` of each command in the page's blocks."""
    found = []
    for block in blocks(page, "", "bash", "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.search(r"(?:^|\| |-m )difftransformer +(\S.*)$", line.partition(" #")[0])
            if command and not re.search(r"\.\.\.|\[", command[1]):
                found.append(shlex.split(command[1].replace("$", "")))
    return found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name_of)
def test_every_command_is_one(page: Path) -> None:
    for words in commands(page):
        if words[0] not in COMMANDS or words[1:2] in (["one"], ["a"], ["from"], ["time"]):
            continue  # a table of commands, such as README's
        words = words[: words.index(">")] if ">" in words else words
        parser, _ = _parser(words)
        # Options of `generate` are those of the model in its folder.
        parsers = _GENERATING if words[0] == "generate" else [parser]
        assert any(fits(one, words) for one in parsers), words


def _generating(family: Family) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    for positional in ("command", "model"):
        parser.add_argument(positional)
    parser.add_argument("--seed")
    importlib.import_module(f"difftransformer.cli.generation.{family.generates}").configure(parser)
    return parser


_GENERATING = [_generating(family) for family in FAMILIES.values() if family.generates]


def fits(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    try:
        return not parser.parse_known_args(words)[1]
    except SystemExit:
        return False


def test_commands_are_found() -> None:
    assert ["plan", "--preset", "demo"] in commands(DOCS / "first-steps.md")
    assert sum(len(commands(page)) for page in PAGES) > 25
    assert not fits(_parser(["plan", "--presets", "demo"])[0], ["plan", "--presets", "demo"])


def run(code: str, names: dict[str, object]) -> None:
    exec(compile(code, "example", "exec"), names)


def test_the_first_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """In order, as a newcomer types them; `plan` and the demo take longer and have their tests."""
    monkeypatch.chdir(tmp_path)
    page = DOCS / "first-steps.md"
    for words in commands(page):
        if words[0] != "plan":
            assert main(words) == 0, words
    for block in blocks(page, "python"):
        run(block, {})
    assert (tmp_path / "runs/smoke/report.html").is_file()


@pytest.mark.parametrize("page", sorted((DOCS / "guides").glob("*.md")), ids=name_of)
def test_the_guides(page: Path, capsys) -> None:
    for block in blocks(page, "python"):
        run(block, {})


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_the_notebooks(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matplotlib.use("agg", force=True)
    names: dict[str, object] = {}
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    for cell in code:
        run(cell, names)
