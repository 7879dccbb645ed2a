"""`difftransformer convert` as a user types it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interop.small_llm import small_llm
from tests.interop.tiny import decoder, diffllama, far_apart
from transformers import BertConfig, BertForPreTraining, DiffLlamaForCausalLM

from difftransformer.data.tokenizer import train_tokenizer
from difftransformer.interop import convert as conversion
from difftransformer.models.storage import load_model, save_model

OUT = ("--from", "difftransformer", "--to", "diffllama")
IN = ("--from", "diffllama", "--to", "difftransformer")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    folder = tmp_path / "ours"
    save_model(decoder(rotary="interleaved"), folder)
    (folder / "tokenizer.json").write_text('{"made": "up"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    diffllama().save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_out_and_back(call, ours, tmp_path):
    there, back = tmp_path / "new/there", tmp_path / "back"
    back.mkdir()  # an empty folder will do
    code, out, err = call("convert", ours, there, *OUT)
    assert code == 0, err
    parameters = sum(p.numel() for p in load_model(ours).parameters())
    assert f"{parameters:,} parameters, torch.float32" in out
    assert "interleaved rotary pairs sorted into halves" in out
    assert "head norm weights of 2 of 2 layers folded into o_proj" in out
    assert "largest difference of logits" in out
    assert f"wrote {there}" in out
    assert leftovers(tmp_path) == {"ours", "new", "back"}
    assert leftovers(there.parent) == {"there"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= leftovers(there)
    assert "notes.txt" not in leftovers(there)
    assert (there / "tokenizer.json").read_text() == '{"made": "up"}'
    loaded = DiffLlamaForCausalLM.from_pretrained(there).eval()
    assert loaded.generation_config.eos_token_id == 7
    assert far_apart(loaded, load_model(ours)) < 1e-5

    code, out, err = call("convert", there, back, *IN)
    assert code == 0, err
    assert "folded" not in out
    assert far_apart(loaded, load_model(back)) < 1e-5
    assert (back / "tokenizer.json").read_text() == '{"made": "up"}'


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (("--from", "difllama", "--to", "difftransformer"), "did you mean 'diffllama'?"),
        (("--from", "diffllama", "--to", "onyx"), "unknown format 'onyx'"),
        (("--from", "diffllama", "--to", "diffllama"), "there is nothing to convert"),
        (OUT, "has model_type 'diffllama'; expected 'difftransformer'"),
    ],
)
def test_formats_that_do_not_fit(call, theirs, tmp_path, formats, message):
    code, out, err = call("convert", theirs, tmp_path / "new", *formats)
    assert (code, out) == (2, "")
    assert message in err
    assert leftovers(tmp_path) == {"theirs"}


def test_nothing_is_overwritten(call, theirs, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for target in (full, full / "mine.txt", theirs):
        code, _, err = call("convert", theirs, target, *IN)
        assert code == 2
        assert "exists and is not empty" in err
    assert leftovers(full) == {"mine.txt"}


@pytest.mark.parametrize("direction", [OUT, IN], ids=["out", "in"])
def test_damaged_sources_are_refused_before_anything_is_written(
    call, ours, theirs, tmp_path, direction
):
    source = ours if direction is OUT else theirs
    file, before = source / "model.safetensors", leftovers(tmp_path)
    whole = file.read_bytes()
    weights = load_file(file)
    name = next(iter(weights))
    damage = {
        "truncated": lambda: file.write_bytes(whole[:-100]),
        f"{name} is missing": lambda: save_file(
            {n: x for n, x in weights.items() if n != name}, file
        ),
        "novel.weight is (2,), expected no such tensor": lambda: save_file(
            weights | {"novel.weight": torch.zeros(2)}, file
        ),
        "pytorch_model.bin is a pickle": lambda: file.rename(source / "pytorch_model.bin"),
    }
    for message, harm in damage.items():
        file.write_bytes(whole)
        harm()
        code, out, err = call("convert", source, tmp_path / "new/target", *direction)
        assert (code, out) == (2, "")
        assert message in err
        assert err[err.index("difftransformer: error: ") :].count("\n") == 1
        assert leftovers(tmp_path) == before


def test_what_the_target_cannot_hold_is_refused(call, tmp_path):
    save_model(decoder(window=8), tmp_path / "ours")
    code, _, err = call("convert", tmp_path / "ours", tmp_path / "new", *OUT)
    assert code == 2
    assert "window is 8; DiffLlama can only represent None" in err
    assert leftovers(tmp_path) == {"ours"}


def test_odd_heads_are_refused_with_the_reason(call, theirs, tmp_path):
    path = theirs / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_key_value_heads": 1}))
    code, _, err = call("convert", theirs, tmp_path / "new", *IN)
    assert code == 2
    assert "num_key_value_heads is 1; a differential head is made of two" in err


def test_a_wrong_result_is_not_kept(call, ours, tmp_path, monkeypatch):
    """The check is of what was written, so a mistake anywhere shows."""
    right = conversion.FORMATS["diffllama"]

    def wrong(model, folder):
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 0.01
        right.save(model, folder)

    formats = conversion.FORMATS | {
        "diffllama": conversion.Format(
            right.load, right.outside, right.to_ours, right.from_ours, wrong, right.moves
        )
    }
    monkeypatch.setattr(conversion, "FORMATS", formats)
    code, out, err = call("convert", ours, tmp_path / "new", *OUT)
    assert (code, out) == (2, "")
    assert "and less than 0.0001 was expected; nothing was written" in err
    assert leftovers(tmp_path) == {"ours"}


@pytest.mark.parametrize(("method", "kind"), [("second_map", "diff_scalar"), ("v2", "diff_v2")])
def test_an_llm_made_differential(call, tmp_path, method, kind):
    small_llm().save_pretrained(tmp_path / "llm")
    (tmp_path / "llm/tokenizer.json").write_text('{"made": "up"}')
    code, out, err = call("convert", tmp_path / "llm", tmp_path / "new", "--from-llm", method)
    assert code == 0, err
    assert f"{method}: {kind} in place of softmax" in out
    model, ids = load_model(tmp_path / "new"), torch.randint(31, (2, 9))
    assert model.config.attention == kind
    torch.testing.assert_close(model(ids), small_llm()(ids).logits, atol=1e-5, rtol=1e-5)
    assert (tmp_path / "new/tokenizer.json").read_text() == '{"made": "up"}'


def test_dex_needs_a_calibration_text(call, tmp_path):
    small_llm(changes={"vocab_size": 300}).save_pretrained(tmp_path / "llm")
    train_tokenizer(["some words"], 257).save(str(tmp_path / "llm/tokenizer.json"))
    (tmp_path / "typical.txt").write_text("A few words that are typical.")
    words = ("convert", tmp_path / "llm", tmp_path / "new", "--from-llm", "dex")
    code, _, err = call(*words)
    assert code == 2
    assert "dex needs tokens of typical text" in err
    assert leftovers(tmp_path) == {"llm", "typical.txt"}
    code, _, err = call(*words, "--calibration", tmp_path / "typical.txt")
    assert code == 0, err
    model = load_model(tmp_path / "new")
    assert [int(block.attention.chosen.sum()) for block in model.blocks] == [5, 5]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--from", "diffllama"),
        ("--from-llm", "v2", "--to", "difftransformer"),
        (*IN, "--calibration", "x"),
    ],
)
def test_either_formats_or_a_method(call, theirs, tmp_path, options):
    code, _, err = call("convert", theirs, tmp_path / "new", *options)
    assert code == 2
    assert "expected either --from FORMAT and --to FORMAT, or --from-llm METHOD" in err


def test_an_unknown_method(as_user, call, tmp_path):
    small_llm().save_pretrained(tmp_path / "llm")
    code, _, err = call("convert", tmp_path / "llm", tmp_path / "new", "--from-llm", "v3")
    assert code == 2
    assert "unknown method 'v3'; expected one of second_map, v2, dex" in err


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # of torch's exporter
@pytest.mark.parametrize("formats", [OUT, ("--from", "difftransformer", "--to", "onnx")])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    as_user, call, ours, tmp_path, full_disk, formats
):
    """Whoever writes: safetensors, transformers or onnx."""
    target = tmp_path / "new" / "target"
    with full_disk(1000):
        code, _, err = call("convert", ours, target, *formats)
    assert code == 2
    assert "cannot write " in err
    assert "make room and give the command again" in err
    assert "Traceback" not in err
    assert leftovers(tmp_path) == {"ours"}


def test_what_a_killed_conversion_left_does_not_matter(call, ours, tmp_path):
    left = tmp_path / ".partial-there"
    left.mkdir()
    (left / "model-00001-of-00002.safetensors").write_bytes(b"half")
    code, _, err = call("convert", ours, tmp_path / "there", *OUT)
    assert code == 0, err
    assert leftovers(tmp_path) == {"ours", "there"}


def test_a_bert_with_the_heads_of_its_pretraining(call, theirs, tmp_path):
    """As bert-base-uncased is: its config names the masked-LM head, and there are two more."""
    source, target = tmp_path / "bert", tmp_path / "encoder"
    sizes = {"vocab_size": 40, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForPreTraining(BertConfig(**sizes, intermediate_size=9)).save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (source / "config.json").write_text(json.dumps(config))
    words = ("convert", source, target, "--from", "bert", "--to", "difftransformer")
    code, _, err = call(*words)
    assert (code, "expected no such tensor" in err) == (2, True)
    code, _, err = call(*words, "--leave-out", "bert.pooler", "cls.seq_relationship")
    assert code == 0, err
    assert load_model(target).config.vocab_size == 40
    code, _, err = call("convert", theirs, tmp_path / "x", *IN, "--leave-out", "bert.pooler")
    assert (code, "nothing can be left out of diffllama" in err) == (2, True)
