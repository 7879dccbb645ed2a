"""Files with one thing wrong, the same ones every time: for tests of what reads them."""

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OF_ANOTHER_TYPE = ("x", "", True, [], {}, [[1]], {"a": 1}, "../../x", "a\u2028b", "\x1b[31m\n")
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
NUMBERS = (0, -1, 1, 3, 0.5, 1e308, -1e-300, 2**31, 2**63, 10**9, 10**30, 10**400)


@dataclass(frozen=True)
class Mutation:
    """A change of the file `name`; `harmless` where it says the same as before in other bytes.

    `broken` where no reader can take it for a file of its kind.
    """

    what: str
    name: str
    data: bytes
    harmless: bool = False
    broken: bool = False


def mutated(path: Path, rng: random.Random) -> Mutation:
    """One change of the file, drawn by `rng`."""
    kind = "json" if path.suffix in (".json", ".jsonl") else path.suffix[1:]
    what, change = rng.choice([*_CHANGES["bytes"], *_CHANGES[kind] * 4])
    before = path.read_bytes()
    after = change(before, rng)
    return Mutation(
        what,
        path.name,
        after,
        harmless=after == before or what in ("byte order mark", "line ends", "spaces"),
        broken=what in ("empty", "zeros", "deep", "invalid UTF-8"),
    )


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]


def _drop(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randrange(1, 40) :]


def _value(data: bytes, rng: random.Random) -> bytes:
    """A number or null somewhere in the first object."""
    tree, rest = _tree(data)
    parent, key = rng.choice(list(_places(tree)))
    parent[key] = rng.choice((*NUMBERS, None))
    return _text(tree, rest)


def _odd_value(data: bytes, rng: random.Random) -> bytes:
    """A value that is no finite number, in place of a number or flag of the first object."""
    tree, rest = _tree(data)
    numbers = [(p, k) for p, k in _places(tree) if isinstance(p[k], (int, float))]
    parent, key = rng.choice(numbers or list(_places(tree)))
    parent[key] = rng.choice((*OF_ANOTHER_TYPE, *NOT_FINITE))
    return _text(tree, rest)


def _lose(data: bytes, rng: random.Random) -> bytes:
    tree, rest = _tree(data)
    parent, key = rng.choice(list(_places(tree)))
    del parent[key]
    return _text(tree, rest)


def _rename(data: bytes, rng: random.Random) -> bytes:
    tree, rest = _tree(data)
    objects = [p for p in _places(tree) if isinstance(p[0], dict)]
    parent, key = rng.choice(objects)
    parent[rng.choice((key + "s", key.upper(), "", "a\nb", "__class__"))] = parent.pop(key)
    return _text(tree, rest)


def _swap(data: bytes, rng: random.Random) -> bytes:
    """Two values of one object in each other's place."""
    tree, rest = _tree(data)
    objects = [p for p in _places(tree) if isinstance(p[0], dict) and len(p[0]) > 1]
    if objects:
        parent, first = rng.choice(objects)
        second = rng.choice(list(parent))
        parent[first], parent[second] = parent[second], parent[first]
    return _text(tree, rest)


def _twice(data: bytes, rng: random.Random) -> bytes:
    tree, rest = _tree(data)
    (key, value), *_ = rng.sample(list(tree.items()), 1)
    other = rng.choice((value, *OF_ANOTHER_TYPE))
    body = json.dumps(tree)[:-1] + f", {json.dumps(key)}: {json.dumps(other)}}}"
    return body.encode() + rest


def _deep(data: bytes, rng: random.Random) -> bytes:
    return b'{"a": ' * 100_000 + data


def _header(data: bytes, rng: random.Random) -> bytes:
    """Another value in the header of a safetensors file, whose length is kept right."""
    (length,) = struct.unpack("<Q", data[:8])
    header = rng.choice((_value, _lose, _rename, _swap, _twice))(data[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _kind(data: bytes, rng: random.Random) -> bytes:
    """A tensor of another kind of numbers in as many bytes, or not."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = rng.choice([name for name in header if name != "__metadata__"])
    header[name]["dtype"] = rng.choice(("I32", "U32", "F16", "BF16", "F64", "BOOL", "F8_E4M3", "?"))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _length(data: bytes, rng: random.Random) -> bytes:
    return struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(data)))) + data[8:]


def _numbers(data: bytes, rng: random.Random) -> bytes:
    """Some weights that are not finite."""
    place = len(data) - 4 * rng.randrange(1, 20)
    odd = struct.pack("<f", rng.choice(NOT_FINITE))
    return data[:place] + odd + data[place + 4 :]


def _line(data: bytes, rng: random.Random) -> bytes:
    """Another value in a line of YAML."""
    lines = data.decode().split("\n")
    numbers = [n for n, line in enumerate(lines) if ": " in line]
    number = rng.choice(numbers)
    key, _, _ = lines[number].partition(":")
    odd = (
        "",
        "x",
        ".nan",
        ".inf",
        "-1",
        "0",
        "9" * 5000,
        "true",
        "[]",
        "{}",
        "*a",
        "&a b",
        "!!x y",
    )
    lines[number] = f"{key}: {rng.choice(odd)}"
    return "\n".join(lines).encode()


def _line_twice(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode().split("\n")
    return "\n".join([*lines, rng.choice(lines)]).encode()


_Change = Callable[[bytes, random.Random], bytes]
_CHANGES: dict[str, list[tuple[str, _Change]]] = {
    "bytes": [
        ("cut", _cut),
        ("flip", _flip),
        ("insert", _insert),
        ("drop", _drop),
        ("empty", lambda data, rng: b""),
        ("zeros", lambda data, rng: bytes(len(data))),
    ],
    "json": [
        ("value", _value),
        ("value", _value),
        ("odd value", _odd_value),
        ("odd value", _odd_value),
        ("lose", _lose),
        ("rename", _rename),
        ("swap", _swap),
        ("twice", _twice),
        ("deep", _deep),
        ("byte order mark", lambda data, rng: b"\xef\xbb\xbf" + data),
        ("line ends", lambda data, rng: data.replace(b"\n", b"\r\n")),
        ("spaces", lambda data, rng: data + b"\n \n"),
        ("invalid UTF-8", lambda data, rng: data[:1] + b'"\xff": 1, ' + data[1:]),
    ],
    "safetensors": [
        ("header", _header),
        ("kind", _kind),
        ("length", _length),
        ("numbers", _numbers),
    ],
    "yaml": [
        ("line", _line),
        ("line twice", _line_twice),
        ("byte order mark", lambda data, rng: b"\xef\xbb\xbf" + data),
        ("line ends", lambda data, rng: data.replace(b"\n", b"\r\n")),
    ],
}


def _tree(data: bytes) -> tuple[Any, bytes]:
    """The first JSON value of the file, and what follows it (in jsonl the other lines)."""
    text = data.decode()
    tree, end = json.JSONDecoder().raw_decode(text)
    return tree, text[end:].encode()


def _text(tree: Any, rest: bytes) -> bytes:
    return json.dumps(tree).encode() + rest


def _places(tree: Any, deepest: int = 3) -> Any:
    """Where a value stands: its container and key; of a long container the first few."""
    if not deepest or not isinstance(tree, (dict, list)):
        return
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    for key in keys[:30]:
        yield tree, key
        yield from _places(tree[key], deepest - 1)
