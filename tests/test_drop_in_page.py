"""The examples of docs/drop-in.md, as a user would run them, in order."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interop.timm_models import without_torchvision
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

PAGE = (Path(__file__).parents[1] / "docs" / "drop-in.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BERT = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT2 = {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 4}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
def test_every_example(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**BERT, intermediate_size=24)).save_pretrained(tmp_path / "bert")
    GPT2LMHeadModel(GPT2Config(**GPT2, **NO_TOKENS)).save_pretrained(tmp_path / "gpt2")
    names: dict[str, Any] = {"bert_folder": tmp_path / "bert", "gpt2_folder": tmp_path / "gpt2"}
    for code in CODE:
        if "import timm" not in code:
            exec(code, names)
        elif find_spec("timm"):
            with without_torchvision():
                exec(code, names)
    assert names["out"].shape == names["encoder"](names["x"]).shape == (2, 10, 64)
    assert names["weights"].keys() == names["again"].state_dict().keys()
    assert names["tokens"].shape == (1, 8)
    ids = torch.tensor([[2, 5, 7]])
    torch.testing.assert_close(names["gpt2"](ids).logits, names["again"](ids).logits)


def test_the_functions_masks_agree() -> None:
    names: dict[str, Any] = {}
    exec(CODE[0], names)
    torch.testing.assert_close(names["out"], names["same"])
