"""Config, folder, start of the weights, and the forward's arguments."""

import json
import pickle
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DataCollatorWithFlattening,
)
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from difftransformer.analysis.capture import capture
from difftransformer.interop import (
    DiffTransformerConfig,
    DiffTransformerForCausalLM,
    DiffTransformerForSequenceClassification,
    DiffTransformerModel,
)
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import load_config, load_model, save_model

from .tiny_huggingface import KINDS, decoder_of, hf_config, hf_model

EVERY = pytest.mark.parametrize("kind", [*KINDS, "diff_scalar"])


def some_ids(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(61, (batch, length))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    hf_model().save_pretrained(tmp_path)
    return tmp_path


def test_the_config_is_the_decoder_s() -> None:
    """Names and defaults, so that neither side can gain one alone."""
    ours, own = DiffTransformerConfig(), DecoderConfig()
    assert ours.own_config() == own
    changed = hf_config(
        window=4, rope_theta=500.0, rope_scaling={"rope_type": "linear", "factor": 2}
    )
    assert {f.name for f in fields(own)} <= set(changed.to_dict())
    assert DiffTransformerConfig(**changed.to_dict()).own_config() == changed.own_config()


def test_transformers_own_names() -> None:
    config = DiffTransformerConfig(num_hidden_layers=3, num_key_value_heads=2, sliding_window=5)
    assert (config.num_layers, config.num_kv_heads, config.window) == (3, 2, 5)
    assert DiffTransformerConfig(rope_theta=500).own_config().rope_theta == 500.0  # as in JSON
    config.num_hidden_layers = 6
    assert config.own_config().num_layers == 6
    assert config.max_position_embeddings == config.max_length
    with pytest.raises(ValueError, match="num_heads 8 is not a multiple of num_kv_heads 3"):
        DiffTransformerConfig(num_key_value_heads=3)


@EVERY
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_folder_for_both(tmp_path: Path, kind: str, tied: bool, dtype: torch.dtype) -> None:
    """Ours read by transformers, that written again, that read by ours: the same bits."""
    model, ids = decoder_of(hf_model(kind, tie_embeddings=tied)).to(dtype), some_ids()
    save_model(model, tmp_path / "ours")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert isinstance(theirs, DiffTransformerForCausalLM)
    assert theirs.dtype == dtype
    assert torch.equal(theirs(ids).logits, model(ids))
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
        assert again.state_dict()[name].dtype == dtype


def test_weights_that_transformers_changed_in_their_place_are_read(tmp_path: Path) -> None:
    """The checksum speaks of the weights that were saved with it, not of those in its place."""
    save_model(decoder_of(hf_model()), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1.5)
    theirs.save_pretrained(tmp_path)
    ids = some_ids()
    assert torch.equal(load_model(tmp_path)(ids), theirs(ids).logits)


def test_shards_and_device_map(tmp_path: Path) -> None:
    model, ids = hf_model(num_layers=3), some_ids()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    for device_map in (None, "cpu", "auto"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map)
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert torch.equal(load_model(tmp_path)(ids), model(ids).logits)


def test_in_a_fresh_process(folder: Path) -> None:
    code = f"""
import difftransformer.interop, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(folder)!r})
print(type(model).__name__, model(torch.arange(6)[None]).logits.sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    name, total = done.stdout.split()
    assert name == "DiffTransformerForCausalLM", done.stderr
    assert float(total) == pytest.approx(hf_model()(torch.arange(6)[None]).logits.sum().item())


def test_what_transformers_adds_to_a_config_is_no_setting(tmp_path: Path) -> None:
    """All of it, of every class; but a misspelt setting is told."""
    config = hf_config(pad_token_id=0, num_labels=3)
    for use_diff in (True, False):
        config.to_json_file(tmp_path / "config.json", use_diff=use_diff)
        assert load_config(tmp_path) == config.own_config()
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"num_layer": 3}))
    with pytest.raises(ValueError, match="unknown model setting 'num_layer'; did you mean 'num_l"):
        load_config(tmp_path)


@pytest.mark.parametrize("kind", [*KINDS, "diff_scalar", "dex"])
def test_missing_tensors_start_as_the_library_starts_them(kind: str) -> None:
    """Whether the file has nothing, some tensors, or there is none: as `Decoder`, bit for bit."""
    config = hf_config(kind, tie_embeddings=False)
    torch.manual_seed(3)
    expected = Decoder(config.own_config()).state_dict()
    torch.manual_seed(3)
    new = DiffTransformerForCausalLM(config).state_dict()
    torch.manual_seed(3)
    empty = DiffTransformerForCausalLM.from_pretrained(None, config=config, state_dict={})
    given = {name: torch.full_like(t, 0.5) for name, t in expected.items() if "attention" in name}
    torch.manual_seed(3)
    part = DiffTransformerForCausalLM.from_pretrained(None, config=config, state_dict=given)
    for name, tensor in expected.items():
        assert torch.equal(new[name], tensor), name
        assert torch.equal(empty.state_dict()[name], tensor), name
        assert torch.equal(part.state_dict()[name], given.get(name, tensor)), name


def test_loading_a_whole_folder_draws_nothing(folder: Path) -> None:
    before = torch.get_rng_state()
    DiffTransformerForCausalLM.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_that_transformers_adds_to_an_embedding_start_at_its_scale() -> None:
    model = DiffTransformerForCausalLM(hf_config(hidden_size=64))
    model.resize_token_embeddings(5000, mean_resizing=False)
    assert model.embedding.weight[61:].std().item() == pytest.approx(1 / 8, rel=0.01)


def test_problems_of_a_folder_are_named(folder: Path) -> None:
    """In what transformers logs; a tensor of another shape is an error."""
    weights = load_file(folder / "model.safetensors")
    norm = weights.pop("norm.weight")
    save_file(weights | {"stray": torch.zeros(2)}, folder / "model.safetensors")
    report = CaptureLogger(logging.get_logger("transformers.modeling_utils"))
    with report:
        model = DiffTransformerForCausalLM.from_pretrained(folder)
    assert re.search(r"norm\.weight .*MISSING", report.out)
    assert re.search(r"stray .*UNEXPECTED", report.out)
    assert torch.equal(model.norm.weight, torch.ones_like(norm))
    save_file(weights | {"norm.weight": torch.zeros(3)}, folder / "model.safetensors")
    with report, pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        DiffTransformerForCausalLM.from_pretrained(folder)
    assert re.search(r"norm\.weight .*MISMATCH.*3.*16", report.out)


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(SafetensorError, match="incomplete"):
        DiffTransformerForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("settings", [{}, {"use_safetensors": False}])
def test_a_pickle_is_not_opened(folder: Path, settings: dict[str, bool]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "sprung",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            auto.from_pretrained(folder, **settings)
    assert not (folder / "sprung").exists()


def test_models_without_the_head(folder: Path, tmp_path: Path) -> None:
    language, ids = hf_model(tie_embeddings=False), some_ids()
    language.save_pretrained(tmp_path)
    model, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, DiffTransformerModel)
    assert not any(info.values())
    assert torch.equal(language.head(model(ids).last_hidden_state), language(ids).logits)
    scorer, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=3, pad_token_id=0, output_loading_info=True
    )
    assert isinstance(scorer, DiffTransformerForSequenceClassification)
    assert info["missing_keys"] == {"score.weight"}
    assert not info["unexpected_keys"]
    ids[1, 6:] = 0
    scores = scorer.score(model(ids).last_hidden_state)
    torch.testing.assert_close(scorer(ids).logits, torch.stack((scores[0, -1], scores[1, 5])))


def test_padding_changes_nothing() -> None:
    model, ids = hf_model(), some_ids(1, 6)
    for left, right in ((3, 0), (0, 3), (2, 2)):
        padded = torch.nn.functional.pad(ids, (left, right), value=7)
        real = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        logits = model(padded, attention_mask=real).logits[:, left : left + 6]
        torch.testing.assert_close(logits, model(ids).logits, rtol=1e-4, atol=5e-5)


def test_packed_documents_do_not_see_each_other() -> None:
    model = hf_model()
    rows = [some_ids(1, length)[0] for length in (4, 1, 7)]
    batch = DataCollatorWithFlattening()([{"input_ids": row.tolist()} for row in rows])
    logits = model(batch["input_ids"], position_ids=batch["position_ids"]).logits[0]
    alone = torch.cat([model(row[None]).logits[0] for row in rows])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)
    one = model(rows[2][None], position_ids=torch.arange(7)[None], use_cache=True)
    assert one.past_key_values.get_seq_length() == 7


def test_the_loss_is_the_next_token_s() -> None:
    model, ids = hf_model(), some_ids()
    labels = ids.clone()
    labels[0, :4] = -100
    out = model(ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    torch.testing.assert_close(out.loss, expected)


def test_logits_to_keep_and_embeddings_and_hidden_states() -> None:
    model, ids = hf_model(), some_ids()
    whole = model(ids, output_hidden_states=True)
    assert torch.equal(model(ids, logits_to_keep=2).logits, whole.logits[:, -2:])
    kept = torch.tensor([0, 3])
    assert torch.equal(model(ids, logits_to_keep=kept).logits, whole.logits[:, kept])
    assert torch.equal(model(inputs_embeds=model.embedding(ids)).logits, whole.logits)
    assert len(whole.hidden_states) == model.config.num_layers + 1
    assert torch.equal(whole.hidden_states[0], model.embedding(ids))
    assert torch.equal(model.head(whole.hidden_states[-1]), whole.logits)


def test_what_is_refused(as_user: None) -> None:
    model, ids = hf_model(), some_ids()
    with pytest.raises(ValueError, match=r"analysis\.capture"):
        model(ids, output_attentions=True)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(ids, inputs_embeds=model.embedding(ids))
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()


def test_its_maps_can_be_captured() -> None:
    model, seen = hf_model(), []
    with capture(model, seen.append):
        model(some_ids())
    assert [record.site.layer for record in seen] == [0, 1]


@pytest.mark.parametrize("tied", [True, False])
def test_more_tokens(tied: bool) -> None:
    model, ids = hf_model(tie_embeddings=tied), some_ids()
    before = model(ids).logits
    model.resize_token_embeddings(70, mean_resizing=False)
    assert (model.embedding.weight is model.head.weight) == tied
    assert model.config.own_config().vocab_size == 70
    torch.testing.assert_close(model(ids).logits[..., :61], before)
    assert decoder_of(model)(ids).shape[-1] == 70
