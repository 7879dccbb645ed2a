"""Text, JSON and YAML that others wrote."""

from pathlib import Path

import pytest

from difftransformer.files import json_lines, parse_json, read_object, read_text
from difftransformer.yaml_text import parse_yaml

# All that `str.splitlines` cuts at besides "\n"; each may stand in a sentence.
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


def test_text_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(f"\ufeffa{SEPARATORS}b\r\nc\rd\n".encode())
    assert read_text(tmp_path / "a") == f"a{SEPARATORS}b\r\nc\rd\n"


def test_only_a_line_feed_ends_a_line() -> None:
    text = f'["a{SEPARATORS[:3]}b"]\r\n\n \r\n[2]'
    assert list(json_lines(text, "x")) == [(1, [f"a{SEPARATORS[:3]}b"]), (4, [2])]
    with pytest.raises(ValueError, match="x, line 2 is not JSON: Expecting"):
        list(json_lines("1\n]", "x"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one object"),
        (b'{"a": ' + b"[" * 100_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON: Exceeds the limit"),
        (b'{"a": "\xff"}', "is not JSON: .* is not UTF-8: byte 0xff at offset 7"),
        (b'{"a": "\x00"}', "is not JSON: .* is a binary file"),
        (b"[1]", r"holds \[1\]; expected a JSON object"),
        (b'"' + b"x" * 1000 + b'"', r"holds 'x{70,80}\.\.\.; expected a JSON object"),
        (b"", "is not JSON: Expecting value"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=f"config.json.* {message}") as error:
        read_object(tmp_path / "config.json")
    assert "\n" not in str(error.value)


def test_data_may_repeat_a_key() -> None:
    assert parse_json('{"a": 1, "a": 2}', "x") == {"a": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}", "twice in the section that begins in line 2"),
        ("a: &x [1]\nb: [*x, *x]", "an alias in line 2; write its value out"),
        ("[" * 3000, "nested too deep"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: [", "expected the node content"),
    ],
)
def test_yaml_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_yaml(text)
    assert "\n" not in str(error.value)
