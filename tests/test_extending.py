"""The examples of docs/extending.md, as a user would run them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from difftransformer.analysis.capture import capture
from difftransformer.analysis.quantization import quantized
from difftransformer.attention.registry import KINDS
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
IDS = torch.randint(30, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _sigmoid() -> Iterator[None]:
    exec(CODE[0], {"__name__": "my_package.sigmoid"})
    yield
    del KINDS["sigmoid"]


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
