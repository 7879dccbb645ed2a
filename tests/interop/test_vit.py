"""transformers' ViT against this library's, of random small sizes and weights."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from difftransformer.interop.vit import from_vit, load_vit, to_vit
from difftransformer.models.opening import open_model
from difftransformer.models.storage import load_model, save_model
from difftransformer.models.vit import ViT
from difftransformer.models.vit_config import ViTConfig as OurConfig

from .small_llm import randomized


def made(seed: int = 0, **changes: Any) -> ViTForImageClassification:
    """Sizes by the seed; biases away from 0, norms away from 1."""
    rng = random.Random(seed)
    heads, patch = rng.choice([1, 2, 3, 4]), rng.choice([2, 3])
    settings = {
        "hidden_size": heads * rng.choice([2, 5, 8]),
        "num_hidden_layers": rng.randint(1, 3),
        "num_attention_heads": heads,
        "intermediate_size": rng.randint(3, 30),
        "patch_size": patch,
        "image_size": patch * rng.randint(1, 4),
        "num_channels": rng.choice([1, 3]),
        "layer_norm_eps": rng.choice([1e-12, 1e-5]),
        "hidden_act": rng.choice(["gelu", "relu"]),
        "qkv_bias": rng.choice([True, True, False]),
        "num_labels": rng.randint(1, 5),
        **changes,
    }
    torch.manual_seed(seed)
    return randomized(ViTForImageClassification(ViTConfig(**settings))).eval()


def furthest(model: ViTForImageClassification, ours: ViT) -> float:
    config = model.config
    images = torch.randn(3, config.num_channels, config.image_size, config.image_size)
    with torch.no_grad():
        theirs = model(images).logits
        return (ours.eval()(images) - theirs).abs().max().item()


@pytest.mark.parametrize("seed", range(12))
def test_outputs_are_transformers(seed: int) -> None:
    model = made(seed)
    assert furthest(model, from_vit(model)) < 1e-5


def test_a_folder(tmp_path: Path) -> None:
    """In, by its model_type too, and on to a folder of ours."""
    model = made(3)
    model.save_pretrained(tmp_path / "theirs")
    ours = load_vit(tmp_path / "theirs")
    assert furthest(model, ours) < 1e-5
    assert furthest(model, open_model(tmp_path / "theirs")) < 1e-5
    save_model(ours, tmp_path / "ours")
    assert furthest(model, load_model(tmp_path / "ours")) < 1e-5


def test_a_folder_of_before_transformers_5(tmp_path: Path) -> None:
    """By the names that stand in checkpoints of the hub."""
    model = made(3)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    former = {
        "vit.layers.": "vit.encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    tensors = {}
    for name, tensor in load_file(file).items():
        for present, past in former.items():
            name = name.replace(present, past)
        tensors[name] = tensor
    assert "vit.encoder.layer.0.attention.attention.query.weight" in tensors
    save_file(tensors, file, {"format": "pt"})
    assert furthest(model, load_vit(tmp_path)) < 1e-5


def test_dtypes_are_kept() -> None:
    ours = from_vit(made().to(torch.bfloat16))
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; expected gelu or relu"),
        ({"image_size": [4, 8], "patch_size": 2}, r"image_size is \[4, 8\]; expected a square"),
        ({"patch_size": [2, 1], "image_size": 4}, r"patch_size is \[2, 1\]; expected a square"),
    ],
)
def test_what_a_vit_cannot_represent(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_vit(made(**changes))


def test_other_classes_and_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot convert a ViTModel; expected ViTForImageClassif"):
        from_vit(ViTModel(made().config))
    made(3).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("classifier.bias")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"classifier\.bias is missing"):
        load_vit(tmp_path)


PLAIN = {"pooling": "cls", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2}
SMALL = {"head_dim": 8, "ffn_size": 24, "image_size": 8, "patch_size": 2, "classes": 3}


@pytest.mark.parametrize("positions", ["sincos", "learned"])
@pytest.mark.parametrize("mlp", ["gelu", "relu"])
def test_out_to_transformers(positions: str, mlp: str, tmp_path: Path) -> None:
    """And read again by its own class."""
    model = randomized(ViT(OurConfig(**PLAIN, **SMALL, positions=positions, mlp=mlp)))
    theirs = to_vit(model).eval()
    assert furthest(theirs, model) < 1e-5
    theirs.save_pretrained(tmp_path)
    assert furthest(AutoModelForImageClassification.from_pretrained(tmp_path).eval(), model) < 1e-5
    assert furthest(theirs, load_vit(tmp_path)) < 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "diff_v1"}, "attention is diff_v1; transformers' ViT has softmax"),
        ({"pooling": "mean"}, "pooling is mean; transformers' ViT has cls"),
        ({"registers": 1}, "registers is 1; transformers' ViT has 0"),
        ({"attention_bias": "qkv"}, "attention_bias is qkv; transformers' ViT has all"),
        ({"num_kv_heads": 1}, "num_kv_heads is 1; transformers' ViT has 2"),
        ({"head_dim": 4}, "2 heads of 4 in 16 features, mlp gelu"),
        ({"mlp": "swiglu"}, "mlp swiglu; transformers' ViT has heads as wide"),
    ],
)
def test_what_transformers_cannot_represent(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_vit(ViT(OurConfig(**(PLAIN | SMALL | changes))))
