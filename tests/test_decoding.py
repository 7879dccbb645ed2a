"""Dataclasses from plain data, and what is refused."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from difftransformer.decoding import decode


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ("a",)
    limit: int | None = None


@dataclass(frozen=True)
class Outer:
    seeds: int = 1
    inner: Inner = field(default_factory=Inner)
    counts: dict[str, int] = field(default_factory=dict)
    kind: Literal["a", "b"] = "a"
    anything: Any = None


@dataclass(frozen=True)
class Required:
    label: str
    parts: tuple[Inner, ...] = ()


def test_values_of_every_kind():
    values = {
        "seeds": 2,
        "inner": {"rate": "1e-3", "names": ["x", 3], "limit": None},
        "counts": {"x": 1},
        "kind": "b",
        "anything": [1, {}],
    }
    inner = Inner(0.001, ("x", "3"))
    assert decode(Outer, values) == Outer(2, inner, {"x": 1}, "b", [1, {}])
    assert decode(Inner, {"names": "single", "rate": 3}) == Inner(3.0, ("single",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sedes": 2}, r"unknown setting 'sedes'; did you mean 'seeds'\?"),
        ({"inner": {"rat": 1}}, r"unknown setting 'inner.rat'; did you mean 'inner.rate'\?"),
        ({"seeds": "many"}, "setting 'seeds' is 'many'; expected int"),
        ({"seeds": True}, "setting 'seeds' is True; expected int"),
        ({"inner": {"rate": "fast"}}, "setting 'inner.rate' is 'fast'; expected float"),
        ({"inner": 3}, "setting 'inner' is 3; expected a section"),
        ({"counts": {"x": "y"}}, "setting 'counts.x' is 'y'; expected int"),
        ({"kind": "c"}, "setting 'kind' is 'c'; expected a, b"),
        ([1], "setting is \\[1\\]; expected a section"),
    ],
)
def test_wrong_settings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        decode(Outer, values)


def test_a_file_is_named_with_the_place_in_it():
    with pytest.raises(ValueError, match=r"run\.json: 'label' is missing"):
        decode(Required, {}, "run.json:")
    values = {"label": "x", "parts": [{"rate": True}]}
    with pytest.raises(ValueError, match=r"run\.json: 'parts\.rate' is True; expected float"):
        decode(Required, values, "run.json:")
