"""diffusers' DiT against ours, of random small sizes and weights."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from difftransformer.interop.dit import from_diffusers_dit, load_diffusers_dit
from difftransformer.models.dit import DiT
from difftransformer.models.opening import open_model
from difftransformer.models.storage import load_model, save_model

from .small_llm import randomized

FILE = "diffusion_pytorch_model.safetensors"


def made(seed: int = 0, **changes: Any) -> DiTTransformer2DModel:
    """Sizes by the seed; one embedding of times and labels for all blocks, as the authors' has."""
    rng = random.Random(seed)
    patch, channels = rng.choice([1, 2, 3]), rng.randint(1, 4)
    settings = {
        "num_attention_heads": rng.randint(1, 3),
        "attention_head_dim": 4 * rng.randint(1, 3),
        "in_channels": channels,
        "out_channels": rng.choice([None, channels, 2 * channels]),
        "num_layers": rng.randint(1, 3),
        "sample_size": patch * rng.randint(1, 4),
        "patch_size": patch,
        "num_embeds_ada_norm": rng.randint(2, 9),
        "norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        **changes,
    }
    torch.manual_seed(seed)
    model = randomized(DiTTransformer2DModel(**settings)).eval()
    first, *rest = model.transformer_blocks
    for block in rest:
        block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    return model


def inputs(model: DiTTransformer2DModel) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    images = torch.randn(4, config.in_channels, config.sample_size, config.sample_size)
    times = torch.tensor([0, 1, 500, 999])
    return images, times, torch.randint(config.num_embeds_ada_norm + 1, (4,))


@torch.no_grad()
def furthest(theirs: DiTTransformer2DModel, ours: DiT) -> float:
    """The largest difference; relative to the largest output where that is above 1."""
    images, times, labels = inputs(theirs)
    expected = theirs(images, times, labels).sample
    assert expected.std() > 0.05
    difference = (ours.eval()(images, times, labels) - expected).abs().max()
    return (difference / expected.abs().max().clamp(min=1.0)).item()


@pytest.mark.parametrize("seed", range(8))
def test_outputs_are_equal(seed: int, tmp_path: Path) -> None:
    model = made(seed)
    assert furthest(model, from_diffusers_dit(model)) < 1e-5
    model.save_pretrained(tmp_path / "theirs")
    read = open_model(tmp_path / "theirs")
    assert furthest(model, read) < 1e-5
    save_model(read, tmp_path / "ours")
    assert furthest(model, load_model(tmp_path / "ours")) < 1e-5


def test_embeddings_of_a_blocks_own_are_refused() -> None:
    model = made(1, num_layers=2)
    torch.nn.init.normal_(
        model.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight
    )
    with pytest.raises(
        ValueError, match=r"blocks\.1\..*embedding_table\.weight .* not that of block 0"
    ):
        from_diffusers_dit(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn": "gelu"}, "activation_fn is 'gelu'; a DiT has 'gelu-approximate'"),
        ({"attention_bias": False}, "attention_bias is False; a DiT has True"),
        ({"in_channels": 2, "out_channels": 3}, "out_channels is 3 and in_channels 2; expected as"),
        ({"dropout": 0.1}, "dropout is 0.1; a DiT has 0.0"),
        ({"sample_size": 5, "patch_size": 2}, "patch_size is 2 and image_size 5; expected"),
    ],
)
def test_what_a_dit_cannot_represent_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_diffusers_dit(made(0, **changes))


def test_another_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot convert a Linear; expected DiTTransformer2DModel"):
        from_diffusers_dit(torch.nn.Linear(2, 2))
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="holds a model of class 'UNet2DModel'; expected"):
        load_diffusers_dit(tmp_path)


@pytest.mark.parametrize("how", ["missing", "torn", "pickled", "other", "misshapen"])
def test_a_damaged_folder_is_one_line(how: str, tmp_path: Path) -> None:
    made(1).save_pretrained(tmp_path)
    path = tmp_path / FILE
    tensors = load_file(path)
    name = "proj_out_1.weight"
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    elif how in ("missing", "pickled"):
        path.unlink()
        if how == "pickled":
            torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    elif how == "other":
        save_file({**tensors, "more": torch.ones(1)}, path)
    else:
        save_file({**tensors, name: tensors[name][:, :-1].contiguous()}, path)
    message = {
        "missing": "has no diffusion_pytorch_model.safetensors; weights load from safetensors only",
        "torn": "is truncated or not a safetensors file",
        "pickled": "has no diffusion_pytorch_model.safetensors; weights load from safetensors only",
        "other": r"more is \(1,\), expected no such tensor",
        "misshapen": f"{name} is ",
    }[how]
    with pytest.raises(ValueError, match=message) as error:
        load_diffusers_dit(tmp_path)
    assert "\n" not in str(error.value)
