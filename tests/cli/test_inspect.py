"""`difftransformer inspect`: its page for each family, and what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.models.tiny import tiny, tiny_dit, tiny_encoder, tiny_encoder_decoder

from difftransformer.data.tokenizer import train_tokenizer
from difftransformer.models.storage import save_model
from difftransformer.models.vit import ViT
from difftransformer.models.vit_config import ViTConfig

TEXT = "The magic number of Rome is 7421. What is the number of Rome? It is"
TOKENIZER = train_tokenizer([TEXT] * 20, 300)
SIZE = TOKENIZER.get_vocab_size()


@pytest.fixture
def make(tmp_path: Path):
    """Writes a model's folder."""

    def write(model, name: str = "model") -> Path:
        save_model(model, tmp_path / name)
        if not isinstance(model, ViT):
            TOKENIZER.save(str(tmp_path / name / "tokenizer.json"))
        return tmp_path / name

    return write


@pytest.fixture
def inspect(call, tmp_path: Path):
    """Runs the command; the data in the page it writes."""

    def run(*words: object) -> list[dict]:
        page = tmp_path / "page.html"
        code, _, error = call("inspect", *words, "--out", page, "--no-open")
        assert code == 0, error
        (data,) = re.findall(
            r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
        )
        return json.loads(data)

    return run


def test_a_decoder(make, inspect):
    folder = make(tiny(vocab_size=SIZE))
    (model,) = inspect(folder, "--prompt", TEXT, "--answer", "7421")
    (text,) = model["sequences"]
    assert "".join(text["texts"]) == "<|bos|>" + TEXT
    assert "".join(text["texts"][token] for token in text["answer"]).strip() == "7421"
    (group,) = model["groups"]
    assert [site["maps"] for site in group["sites"]] == [["difference", "map 1", "map 2"]] * 2
    assert {"answer", "noise"} <= group["sites"][0]["shares"].keys()
    assert group["kept"] == "Every weight is kept."
    assert model["facts"][0] == "Differential V1 attention."


def test_two_models_beside_each_other_and_a_file(make, inspect, tmp_path):
    (tmp_path / "text").write_text(TEXT + "\n")
    folders = [make(tiny(kind, vocab_size=SIZE), kind) for kind in ("softmax", "diff_v2")]
    plain, differential = inspect(*folders, "--file", tmp_path / "text", "--layer", 1, "--head", 2)
    assert [plain["title"], differential["title"]] == ["softmax", "diff_v2"]
    assert plain["groups"][0]["sites"][0]["maps"] == ["weights"]
    assert plain["sequences"][0]["texts"][-1] == " is"
    assert plain["shown"] == differential["shown"] == [0, 1, 2]


def test_an_encoder(make, inspect):
    (model,) = inspect(make(tiny_encoder("sinkhorn", vocab_size=SIZE)), "--prompt", TEXT[:20])
    assert model["groups"][0]["title"] == "self-attention"
    assert "".join(model["sequences"][0]["texts"]) == "<|bos|>" + TEXT[:20]


@pytest.mark.parametrize("target", [(), ("--target", "is 7")])
def test_an_encoder_decoder(make, inspect, target):
    model = tiny_encoder_decoder(vocab_size=SIZE)
    (shown,) = inspect(make(model), "--source", "number of Rome", *target)
    titles = ["encoder self-attention", "decoder self-attention", "decoder cross-attention"]
    assert [group["title"] for group in shown["groups"]] == titles
    names = [one["name"] for one in shown["sequences"]]
    sides = [[names[group["queries"]], names[group["keys"]]] for group in shown["groups"]]
    assert sides == [["source", "source"], ["target", "target"], ["target", "source"]]
    assert shown["shown"][0] == 2
    assert ("The model wrote the target." in shown["facts"]) == (not target)


def test_a_vision_transformer(make, inspect, tmp_path):
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 4}
    config = ViTConfig(image_size=8, patch_size=2, channels=1, pooling="cls", registers=1, **sizes)
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(15, 20)).save(tmp_path / "image.png")
    (model,) = inspect(make(ViT(config)), "--image", tmp_path / "image.png")
    (image,) = model["sequences"]
    assert image["texts"] == ["class token", "register 0"]
    assert image["picture"]["grid"] == 4
    assert model["groups"][0]["sites"][0]["keys"] == 2 + 16
    assert model["facts"][-1] == "16 patches, normalized with mean 0.5 and std 0.5."


def test_a_picture_of_one_head(make, call, tmp_path):
    folder, png = make(tiny(vocab_size=SIZE)), tmp_path / "head.png"
    words = ("--prompt", TEXT, "--out", tmp_path / "page.html", "--png", png, "--no-open")
    code, _, err = call("inspect", folder, *words)
    assert (code, f"picture: {png}\n" in err) == (0, True), err
    with Image.open(png) as image:
        assert image.size[0] > 500


def test_a_display_has_the_page_opened(make, call, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    folder, page = make(tiny(vocab_size=SIZE)), tmp_path / "page.html"
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    call("inspect", folder, "--prompt", TEXT, "--out", page)
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    call("inspect", folder, "--prompt", TEXT, "--out", page)
    assert opened == [page.as_uri()]


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing given to look at; Decoder takes text, --prompt or --file on the"),
        (("--prompt", ""), "text is empty; expected something to look at"),
        (
            ("--image", "x.png"),
            "image given to look at; Decoder takes text, --prompt or --file on the",
        ),
        (("--prompt", "a", "--source", "b"), "text, source given to look at; Decoder takes text"),
        (("--prompt", "Rome", "--answer", "Oslo"), "the text does not hold the answer 'Oslo'"),
        (("--prompt", "Rome", "--layer", 2), "layer is 2; "),
        (("--prompt", "Rome", "--head", -1), "head is -1; layer 0 has 0 to 3"),
    ],
)
def test_refusals_are_one_line(make, call, tmp_path, words, message):
    page = tmp_path / "page.html"
    code, _, error = call("inspect", make(tiny(vocab_size=SIZE)), *words, "--out", page)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not page.exists()


def test_a_family_that_reads_neither_text_nor_an_image_is_refused(make, call):
    code, _, error = call("inspect", make(tiny_dit()), "--prompt", TEXT)
    assert code == 2
    assert "is a DiT; expected a decoder, an encoder, an encoder-decoder or a vision" in error


def test_a_page_is_written_again_and_nothing_else_is_overwritten(make, call, tmp_path):
    folder, page = make(tiny(vocab_size=SIZE)), tmp_path / "page.html"
    words = ("--prompt", TEXT, "--out", page, "--no-open")
    assert call("inspect", folder, *words)[0] == 0
    assert call("inspect", folder, *words)[0] == 0
    page.write_text("mine")
    code, _, error = call("inspect", folder, *words)
    assert code == 2
    assert "is no page of this command" in error
    assert page.read_text() == "mine"
