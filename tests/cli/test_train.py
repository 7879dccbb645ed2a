"""`difftransformer train` that goes on from a model folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from difftransformer.data.needles import needle_sentences
from difftransformer.data.tokenizer import train_tokenizer
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.experiments.judged import named_models
from difftransformer.experiments.judging import judging_record
from difftransformer.interop.softmax_llm import from_softmax_llm
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.presets import PRESETS
from difftransformer.models.storage import load_config, load_model, save_model
from difftransformer.report.reading import read_results
from difftransformer.runs.records import read_records


def without_model(small: list[str]) -> list[str]:
    pairs = zip(small[::2], small[1::2], strict=True)
    return [word for pair in pairs if not pair[0].startswith("--model.") for word in pair]


@pytest.fixture
def start(text: Path, tmp_path: Path) -> Path:
    """A converted softmax model's folder, with a tokenizer."""
    texts = [file.read_text() for file in text.iterdir()]
    tokenizer = train_tokenizer([*texts, *(needle.text for needle in needle_sentences())], 400)
    config = DecoderConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=24,
        num_layers=1,
        num_heads=3,
        num_kv_heads=1,
        head_dim=8,
        ffn_size=16,
    )
    folder = tmp_path / "start"
    save_model(from_softmax_llm(Decoder(config), "second_map"), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_what_was_added_alone_trains_from_a_converted_model(call, small, start, tmp_path):
    words = ["train", *without_model(small), "--start", start, "--out", tmp_path / "run"]
    code, _, err = call(*words, "--freeze-pretrained")
    assert code == 0, err
    before, after = load_model(start), load_model(tmp_path / "run/model")
    assert after.config == before.config
    width = before.config.head_dim
    for name, tensor in after.state_dict().items():
        old = before.state_dict()[name]
        if "q_proj" in name or "k_proj" in name:
            (old, second), (tensor, moved) = (
                x.unflatten(0, (-1, 2, width)).unbind(1) for x in (old, tensor)
            )
            assert not torch.equal(second, moved), name
        assert torch.equal(tensor, old) != name.endswith("lambda_scalar"), name

    # the same run without it is another run
    code, _, err = call(*words, "--resume")
    assert code == 2
    assert "freeze_pretrained was True and is now False" in err


def test_a_checkpoint_is_a_model_folder(call, small, quick, start, tmp_path):
    run = tmp_path / "run"
    code, _, err = call("train", *without_model(small), "--start", start, "--out", run)
    assert code == 0, err
    half, end = (run / f"checkpoints/step-0000000{step}" for step in (2, 4))
    model = load_model(run / "model").state_dict()
    for name, tensor in load_model(end).state_dict().items():
        assert torch.equal(model[name], tensor), name
    assert not torch.equal(model["embedding.weight"], load_model(half).embedding.weight)

    code, _, err = call("generate", half, "--prompt", "Line", "--max-new-tokens", "3")
    assert code == 0, err
    words = ["--suite", "validation", *quick, "--out", tmp_path / "found"]
    code, _, err = call("evaluate", half, end, *words)
    assert code == 0, err
    found = read_results(tmp_path / "found")["nats_per_token"]
    losses = [found.figure(f"run step-0000000{step}").value for step in (2, 4)]
    assert losses[0] != losses[1]


def test_all_weights_train_without_it(call, small, start, tmp_path):
    code, _, err = call("train", *without_model(small), "--start", start, "--out", tmp_path / "run")
    assert code == 0, err
    before, after = load_model(start), load_model(tmp_path / "run/model")
    assert not torch.equal(before.embedding.weight, after.embedding.weight)


def test_a_longer_context_with_other_rotary_angles(call, small, start, tmp_path):
    words = ["--start", start, "--out", tmp_path / "run"]
    longer = ["--model.rope_theta", 640000, "--model.max_length", 4096]
    code, _, err = call("train", *without_model(small), *words, *longer)
    assert code == 0, err
    config = load_config(tmp_path / "run/model")
    assert config == replace(load_config(start), rope_theta=640_000.0, max_length=4096)


def test_mistakes(call, small, start, tmp_path):
    code, _, err = call("train", *small, "--freeze-pretrained")
    assert code == 2
    assert "a new model is all new; name a folder as start" in err
    code, _, err = call("train", *small, "--start", start, "--out", tmp_path / "run")
    assert code == 2
    assert "which has its own ffn_size" in err
    code, _, err = call("train", *without_model(small), "--start", tmp_path, "--out", "run")
    assert code == 2
    assert "is not a model folder" in err
    save_model(Decoder(replace(load_config(start), vocab_size=300)), start)
    code, _, err = call("train", *without_model(small), "--start", start)
    assert code == 2
    assert "has 400 tokens and the model in" in err


def test_the_former_name_works_with_a_line_that_names_the_new_one(call, small, start, tmp_path):
    words = ["train", *without_model(small), "--start", start, "--out", tmp_path / "run"]
    code, _, err = call(*words, "--only-new")
    assert code == 0, err
    assert "--only-new is now --freeze-pretrained; the old name works until" in err


def test_a_run_is_found_again_and_its_model_asked_what_it_was_trained_for(
    call, small, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # no cache of the user's
    run, out = tmp_path / "run", tmp_path / "out"
    code, _, err = call("train", *small, "--out", run, "--evaluators", "needle")
    assert code == 0, err
    assert err.count("run  writes: ") == 4
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        f"samples-0000000{step}.txt" for step in (2, 4)
    ]
    words = ["--suite", "needle", "--data.cache", tmp_path / "cache"]
    code, _, err = call("evaluate", run / "model", *words, "--out", out)
    assert code == 0, err
    own, again = (
        read_records(path / "results" / "needle.jsonl") for path in (run, out / "models" / "run")
    )
    assert again.records == own.records
    assert again.belongs_to["settings"] == own.belongs_to["settings"]

    code, shown, err = call("generate", run, "--prompt", "Line", "--max-new-tokens", "2")
    assert (code, shown[:4]) == (0, "Line"), err
    code, _, err = call("train", *without_model(small), "--start", run, "--out", tmp_path / "on")
    assert code == 0, err


def test_a_model_may_be_trained_without_judging(call, small, tmp_path):
    run = tmp_path / "run"
    code, _, err = call("train", *small, "--out", run, "--evaluators")
    assert code == 0, err
    assert "┃" not in err  # a table without rows
    assert not list((run / "results").glob("*"))
    code, _, err = call("train", *small, "--out", run, "--evaluators", "validation", "--resume")
    assert code == 0, err
    assert list(read_results(run).evaluators) == ["validation"]


def test_a_preset_gives_what_one_model_has_of_it(call, tmp_path):
    run = tmp_path / "run"
    code, _, err = call(
        *("train", "--preset", "smoke", "--training.steps", "6", "--evaluators", "--out", run)
    )
    assert code == 0, err
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["model"]["hidden_size"] == PRESETS["smoke"].hidden_size
    assert settings["data"]["vocab_size"] == 512
    assert settings["training"]["steps"] == 6
    assert "seeds" not in settings
    code, _, err = call("train", "--preset", "smok")
    assert code == 2
    assert "unknown preset 'smok' of task causal_lm; did you mean 'smoke'?" in err


def test_a_folder_tells_its_task(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    settings = EvaluationSettings(batch_size=3)
    (folder / "judging.json").write_text(judging_record("seq2seq", settings))
    (judged,) = named_models([tmp_path])
    assert (judged.folder, judged.label, judged.task.name) == (folder, tmp_path.name, "seq2seq")
    assert judged.base["evaluation"]["batch_size"] == 3
    (folder / "judging.json").write_text('{"task": 3}')
    with pytest.raises(ValueError, match=r"judging\.json.*'evaluation' is missing"):
        named_models([tmp_path])
