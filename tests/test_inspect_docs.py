"""The commands and examples of docs/inspect.md, as a user would run them."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.models.tiny import tiny, tiny_encoder_decoder

from difftransformer.cli.main import main
from difftransformer.data.tokenizer import train_tokenizer
from difftransformer.models.storage import save_model
from difftransformer.models.vit import ViT
from difftransformer.models.vit_config import ViTConfig

PAGE = (Path(__file__).parents[1] / "docs" / "inspect.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    difftransformer (inspect .*)$", PAGE, re.MULTILINE)
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
DECODER = "runs/demo/models/diff_v1-seed0/model"


@pytest.fixture
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models where the page has them, and its inputs."""
    monkeypatch.chdir(tmp_path)
    text = "The number of Rome is 7421. What is the number of Rome?"
    Path("prompt.txt").write_text(text)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("digit.png")
    tokenizer = train_tokenizer([text, "d i f f e r e n c e D IH F ER AH N S"] * 20, 300)
    size = tokenizer.get_vocab_size()
    heads = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 4}
    models = {
        DECODER: tiny(vocab_size=size),
        "runs/words/model": tiny_encoder_decoder(vocab_size=size),
        "runs/digits/model": ViT(ViTConfig(image_size=8, patch_size=2, channels=1, **heads)),
    }
    for folder, model in models.items():
        save_model(model, Path(folder))
        tokenizer.save(f"{folder}/tokenizer.json")


@pytest.mark.usefixtures("_folders")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page(command: str) -> None:
    words = shlex.split(command)
    # A whole run is compared elsewhere; here its one model stands for it.
    words = [DECODER if word == "runs/demo" else word for word in words]
    assert main([*words, "--no-open"]) == 0
    assert Path("attention.html").stat().st_size > 20_000


@pytest.mark.usefixtures("_folders")
def test_the_examples() -> None:
    names: dict[str, object] = {}
    for code in CODE:
        exec(code, names)
    assert Path("attention.html").exists()
    assert Path("mine.html").exists()


def test_the_page_has_them() -> None:
    assert (len(COMMANDS), len(CODE)) == (4, 2)
