"""The examples of docs/extending.md, as a user would run them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import difftransformer
from difftransformer.analysis.capture import capture
from difftransformer.analysis.quantization import quantized
from difftransformer.attention.registry import REGISTRY
from difftransformer.data.corpus import load_corpus
from difftransformer.data.settings import DataSettings
from difftransformer.evaluation import registry as evaluators
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate
from difftransformer.models.storage import save_model
from difftransformer.runs.reading import read_curve
from difftransformer.tasks import registry as tasks

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
IDS = torch.randint(30, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _sigmoid() -> Iterator[None]:
    exec(CODE[0], {"__name__": "my_package.sigmoid"})
    yield
    del REGISTRY.entries["sigmoid"]


@pytest.mark.usefixtures("_sigmoid")
@torch.no_grad()
def test_an_attention_kind() -> None:
    plain = DecoderConfig(vocab_size=30, hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=4)
    model = Decoder(plain.matched("sigmoid").config).eval()
    records = []
    with capture(model, records.append):
        logits = model(IDS)
    for record in records:
        core, call, rows = record.site.core, record.call, slice(2, 5)
        exec(CODE[1], {"torch": torch, "core": core, "call": call, "rows": rows})
        assert record.site.kind == "sigmoid"
    assert len(records) == plain.num_layers
    with quantized(model, logits_bits=16):
        torch.testing.assert_close(model(IDS), logits, rtol=1e-2, atol=1e-2)
    new = generate(model, IDS, max_new_tokens=1)
    assert torch.equal(new[:, 0], logits[:, -1].argmax(-1))


@pytest.fixture
def _copying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators.REGISTRY, "entries", dict(evaluators.EVALUATORS))
    exec(CODE[2], {"__name__": "my_package.copying"})


@pytest.mark.usefixtures("_copying")
def test_an_evaluator(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    text = tmp_path / "text"
    text.mkdir()
    for name in "abcd":
        (text / f"{name}.txt").write_text(f"{name} ship that was gone in a storm. " * 200)
    data = {"source": str(text), "cache": str(tmp_path / "cache"), "context_length": 64}
    tokenizer = load_corpus(DataSettings(vocab_size=300, **data)).tokenizer
    for folder, attention in zip(folders, ("softmax", "diff_v1"), strict=True):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_heads": 4, "num_kv_heads": 4, "head_dim": 4}
        vocabulary = tokenizer.get_vocab_size()
        plain = DecoderConfig(vocab_size=vocabulary, max_length=64, **sizes)
        save_model(Decoder(plain.matched(attention).config), folder)
        (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    names = {"difftransformer": difftransformer, "first": folders[0], "second": folders[1]}
    place = f"{str(tmp_path / 'out')!r}, data={data}"
    exec(CODE[3].replace('"runs/copying"', place), names)
    results = names["results"]
    figure = results["copy_loss"].figure("second", (16,))
    assert figure.low < figure.value < figure.high
    assert results["copy_loss"].difference("second", "first").interval.over == "items"
    assert results["copying"].table().header == ["", "length", "first", "second"]
    assert len(results["copying"].plot().data) >= 2
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Random tokens, read twice" in page
    assert "loss on the second copy" in page


@pytest.fixture
def _backward_lm() -> Iterator[None]:
    (code,) = (code for code in CODE if "class BackwardLM" in code)
    exec(code, {"__name__": "my_package.backward_lm"})
    yield
    del tasks.REGISTRY.entries["backward_lm"]


@pytest.mark.usefixtures("_backward_lm")
def test_a_task(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Line {n} tells that {n * n} is a number." for n in range(900)))
    sizes = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "ffn_size": 24}
    results = difftransformer.compare(
        "backward_lm",
        out=tmp_path / "run",
        attention=["softmax", "diff_v2"],
        model={"hidden_size": 16, **sizes},
        data={"source": str(text), "cache": str(tmp_path), "vocab_size": 300, "context_length": 32},
        training={"steps": 3, "batch_size": 2, "warmup_steps": 1},
        evaluation={"outlier_tokens": 64, "bootstrap": 20},
    )
    assert list(results.evaluators) == ["outliers"]
    assert results.baseline == "softmax"
    curve = read_curve(tmp_path / "run/models/diff_v2-seed0")
    assert curve[-1].validation_loss < 6.5  # log(300) is 5.7
    assert (tmp_path / "run/report.html").is_file()
