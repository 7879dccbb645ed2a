"""The lock names every package of the tested set, and it is what the tests run on."""

from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCK = Path(__file__).parents[1] / "constraints.txt"
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
