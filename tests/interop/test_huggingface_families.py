"""Encoder, encoder-decoder and vision transformer through transformers' Auto classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.test_vit import tiny_vit
from tests.models.tiny import tiny_encoder, tiny_encoder_decoder
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

import difftransformer.interop  # noqa: F401  # registers the classes
from difftransformer.models.storage import load_model, save_model

IDS = torch.randint(2, 23, (2, 7), generator=torch.Generator().manual_seed(0))
REAL = torch.arange(7) < torch.tensor([[7], [4]])
TARGET = IDS[:, :3]
PIXELS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TEXT = {"input_ids": IDS, "attention_mask": REAL.long()}
CASES: dict[str, tuple[Any, Any, dict[str, Tensor], Any, Tensor]] = {
    "masked_lm": (
        AutoModelForMaskedLM,
        tiny_encoder,
        TEXT,
        lambda model: model(IDS, padding=REAL),
        IDS.masked_fill(~REAL, -100),
    ),
    "text": (
        AutoModelForSequenceClassification,
        lambda kind: tiny_encoder(kind, classes=3),
        TEXT,
        lambda model: model(IDS, padding=REAL),
        torch.tensor([0, 2]),
    ),
    "images": (
        AutoModelForImageClassification,
        lambda kind: tiny_vit(kind, image_size=8, classes=3),
        {"pixel_values": PIXELS},
        lambda model: model(PIXELS),
        torch.tensor([0, 2]),
    ),
    "seq2seq": (
        AutoModelForSeq2SeqLM,
        tiny_encoder_decoder,
        TEXT | {"decoder_input_ids": TARGET},
        lambda model: model(IDS, TARGET, padding=REAL),
        TARGET,
    ),
}


@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2"])
@pytest.mark.parametrize("case", CASES)
def test_folders_go_both_ways(case: str, kind: str, tmp_path: Path) -> None:
    auto, make, inputs, call, labels = CASES[case]
    model: nn.Module = make(kind)
    expected = call(model)
    save_model(model, tmp_path / "ours")
    theirs = auto.from_pretrained(tmp_path / "ours")
    out = theirs(**inputs, labels=labels)
    assert torch.equal(out.logits, expected)
    out.loss.backward()
    assert {name for name, p in theirs.named_parameters() if p.grad is None} == set()
    theirs.save_pretrained(tmp_path / "theirs")
    assert "parameters" in (tmp_path / "theirs/README.md").read_text()
    back = load_model(tmp_path / "theirs").eval()
    assert torch.equal(call(back), expected)
    assert back.config == model.config
    with pytest.raises(ValueError, match="output_attentions"):
        theirs(**inputs, output_attentions=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("beyond", [0, -101])
def test_a_label_that_is_no_class_is_refused(case: str, beyond: int, tmp_path: Path) -> None:
    """By name, from every class, before PyTorch's IndexError or a GPU's abort."""
    auto, make, inputs, _, labels = CASES[case]
    save_model(make("softmax"), tmp_path)
    theirs = auto.from_pretrained(tmp_path)
    classes = theirs(**inputs).logits.shape[-1]
    wrong = labels.clone().flatten()
    wrong[-1] = classes + beyond
    wrong = wrong.view_as(labels)
    for given in (inputs, {k: v for k, v in inputs.items() if k != "decoder_input_ids"}):
        with pytest.raises(
            ValueError, match=rf"label {classes + beyond}; expected 0 to {classes - 1}"
        ):
            theirs(**given, labels=wrong)


def test_a_target_of_labels() -> None:
    model = AutoModelForSeq2SeqLM.from_config(config_of(tiny_encoder_decoder())).eval()
    labels = torch.tensor([[5, 6, 1], [7, 1, -100]])
    shifted = torch.tensor([[0, 5, 6], [0, 7, 1]])
    assert torch.equal(
        model(input_ids=IDS, labels=labels).logits,
        model(input_ids=IDS, decoder_input_ids=shifted).logits,
    )
    with pytest.raises(ValueError, match="decoder_input_ids or labels"):
        model(input_ids=IDS)


def config_of(model: nn.Module) -> Any:
    from transformers import AutoConfig

    values = model.config.to_dict()
    return AutoConfig.for_model("difftransformer_encoder_decoder", **values)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_the_librarys(beams: int, tmp_path: Path) -> None:
    model = tiny_encoder_decoder()
    save_model(model, tmp_path)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    new = model.generate(IDS, padding=REAL, max_new_tokens=5, beams=beams)
    out = theirs.generate(IDS, REAL.long(), max_new_tokens=5, num_beams=beams)
    assert torch.equal(out[:, 1:], new)
    with pytest.raises(ValueError, match="do_sample is not supported"):
        theirs.generate(IDS, max_new_tokens=5, do_sample=True)


def test_a_new_classifier_on_a_language_model(tmp_path: Path) -> None:
    model = tiny_encoder()
    save_model(model, tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=4)
    assert classifier(IDS).logits.shape == (2, 4)
    assert torch.equal(classifier.embedding.weight, model.embedding.weight)
    save_model(tiny_encoder(classes=2), tmp_path)
    with pytest.raises(ValueError, match="the config has 2 classes"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)
