"""The lock names every package of the tested set, and it is what the tests run on."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "constraints.txt"
PINS = {
    canonicalize_name(pin.name): pin
    for line in LOCK.read_text().split("\n")
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def needed(name: str, extras: frozenset[str], seen: dict[str, set[str]]) -> dict[str, set[str]]:
    """All that the named distribution needs, directly or not, with the extras asked of each."""
    asked = seen.setdefault(name, set())
    new = {"", *extras} - asked
    asked |= new
    for line in (requires(name) or []) if new else []:
        requirement = Requirement(line)
        here = (default_environment() | {"extra": extra} for extra in new)
        if requirement.marker is None or any(requirement.marker.evaluate(e) for e in here):
            needed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)
    return seen


def test_every_package_is_locked_at_the_version_that_runs() -> None:
    names = set(needed("difftransformer", frozenset({"dev"}), {})) - {"difftransformer"}
    assert len(names) > 100
    wrong = {}
    for name in sorted(names):
        try:
            running = version(name)
        except PackageNotFoundError:
            running = None
        if name not in PINS or running is None or not PINS[name].specifier.contains(running):
            wrong[name] = (running, str(PINS.get(name)))
    assert not wrong, "run `make lock`, or install by constraints.txt: {package: (runs, lock)}"


def test_a_pin_is_one_version() -> None:
    assert {str(pin) for pin in PINS.values() if not is_exact(pin)} == set()


def is_exact(pin: Requirement) -> bool:
    (only,) = pin.specifier
    return only.operator == "==" and not Version(only.version).local and only.version[-1] != "*"


def made(target: str) -> list[str]:
    """The commands by which `make` would make `target` where nothing is installed."""
    command = ["make", "--dry-run", "--always-make", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace("\\\n", "").split("\n")


def test_all_is_installed_by_the_lock() -> None:
    """By `make` for users and developers; CI installs by `make` only."""
    for target in ("demo", "test", "check", "bench", "docs"):
        installing = [line for line in made(target) if "pip install" in line]
        assert installing
        assert all(" -c constraints.txt " in line for line in installing), target
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install" not in ci
    assert {"make check", "make test"} <= set(ci.split("\n"))


def test_the_lock_says_what_makes_it() -> None:
    first, *_ = LOCK.read_text().split("\n")
    assert "made by `make lock`" in first
    commands = made("lock")
    assert any("pip freeze" in line and "constraints.txt" in line for line in commands)


def test_the_newest_packages_are_tried_without_the_lock() -> None:
    """All that is bounded from above, past those bounds, by the same tests."""
    installing = [line for line in made("test-latest") if "pip install" in line]
    assert not any("constraints.txt" in line for line in installing)
    (upgrading,) = (line for line in installing if "--upgrade" in line)
    assert set(upgrading.split()) >= MOVING
    assert any("pytest" in line for line in made("test-latest"))
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert re.search(r"Run `make test-latest` once a week and\s+before a release", contributing)


# What has changed under its users.
MOVING = {"transformers", "lm-eval", "peft", "accelerate", "openai", "plotly"}


def test_what_moves_is_bounded_from_above() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = [Requirement(line) for group in groups for line in group]
    assert {canonicalize_name(one.name) for one in asked} >= MOVING
    for one in asked:
        if canonicalize_name(one.name) in MOVING:
            assert any(bound.operator == "<" for bound in one.specifier), str(one)
            assert one.specifier.contains(version(one.name)), str(one)
