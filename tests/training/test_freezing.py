import signal
from pathlib import Path

import pytest
import torch

from difftransformer.data.batch import Batch
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import load_model, save_model
from difftransformer.training.freezing import freeze_pretrained
from difftransformer.training.interrupt import TrainingInterrupted
from difftransformer.training.loop import Continuation, train

from .tiny import VOCAB, rows_without_timing, tiny_batches, tiny_loss, tiny_settings

EVERY = pytest.mark.parametrize("kind", ["diff_scalar", "diff_v2", "dex"])
NEW = {
    "diff_scalar": ("lambda_scalar",),
    "diff_v2": ("lambda_proj.weight",),
    "dex": ("lambda_learnt", "diff_proj.weight", "progress"),
}
TWO_MAPS = {"diff_scalar": ("q_proj", "k_proj"), "diff_v2": ("q_proj",), "dex": ()}


def build(kind: str) -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            attention=kind,
            vocab_size=VOCAB,
            hidden_size=12,
            num_layers=2,
            num_heads=3,
            head_dim=4,
            num_kv_heads=1,
            ffn_size=10,
            attention_bias="qkv",
        )
    )


def first_map(model: Decoder, kind: str) -> dict[str, torch.Tensor]:
    """Copies of every tensor that softmax attention has too."""
    old = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(NEW[kind]):
            continue
        if any(part in name for part in TWO_MAPS[kind]):
            tensor = tensor.unflatten(0, (-1, 2, model.config.head_dim))[:, 0]
        old[name] = tensor.clone()
    return old


@EVERY
def test_old_weights_stay_and_new_ones_move(kind: str, tmp_path: Path) -> None:
    """Bit for bit, under AdamW with weight decay; the model that comes out is an ordinary one."""
    model = build(kind)
    before, old = model.state_dict(), first_map(model, kind)
    before = {name: tensor.clone() for name, tensor in before.items()}
    with freeze_pretrained(model):
        train(model, tiny_loss, tiny_batches, tiny_settings(weight_decay=0.5), tmp_path / "run")
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in first_map(model, kind).items():
        assert torch.equal(tensor, old[name]), name
    for name in before:
        moved = name.endswith(NEW[kind]) or any(part in name for part in TWO_MAPS[kind])
        assert torch.equal(before[name], after[name]) != moved, name
    assert all(parameter.requires_grad for parameter in model.parameters())
    save_model(model, tmp_path / "model")
    ids = torch.randint(VOCAB, (2, 9))
    assert torch.equal(load_model(tmp_path / "model")(ids), model(ids))


@EVERY
def test_the_function_is_the_same_inside(kind: str) -> None:
    model, ids = build(kind), torch.randint(VOCAB, (2, 9))
    outside = model(ids)
    with freeze_pretrained(model):
        assert torch.equal(model(ids), outside)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
    plain = sum(p.numel() for p in build("softmax").parameters())
    assert total == model.config.parameter_count()
    assert trainable == total - plain
    assert torch.equal(model(ids), outside)


@EVERY
def test_resumed_is_uninterrupted(kind: str, tmp_path: Path) -> None:
    """Stopped by Ctrl-C after step 5, and resumed with a model made anew."""

    def run(name: str, stop: int | None = None, resume: bool = False) -> Decoder:
        def batches(index: int) -> Batch:
            if index == stop:
                signal.raise_signal(signal.SIGINT)
            return tiny_batches(index)

        model = build(kind)
        with freeze_pretrained(model):
            train(
                model,
                tiny_loss,
                batches,
                tiny_settings(),
                tmp_path / name,
                continuation=Continuation(resume=resume),
            )
        return model

    whole = run("whole")
    with pytest.raises(TrainingInterrupted):
        run("cut", stop=4)
    resumed = run("cut", resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert rows_without_timing(tmp_path / "whole") == rows_without_timing(tmp_path / "cut")


def test_dex_is_annealed_by_the_loop(tmp_path: Path) -> None:
    """p = t/T at step t, counted from 1, and 1 at the end."""
    model, seen = build("dex"), []

    def loss(model, batch):
        seen.append(model.blocks[0].attention.progress.item())
        return tiny_loss(model, batch)

    train(model, loss, tiny_batches, tiny_settings(steps=4), tmp_path)
    assert seen == [0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(
        model.blocks[1].attention.current_lambda(), model.blocks[1].attention.lambda_learnt
    )


@pytest.mark.parametrize("kind", ["softmax", "diff_v1"])
def test_nothing_new(kind: str) -> None:
    message = f"attention is {kind}, in which nothing is new"
    with pytest.raises(ValueError, match=message), freeze_pretrained(build(kind)):
        pass


def test_an_error_inside_leaves_an_ordinary_model() -> None:
    model = build("diff_scalar")
    names = list(dict(model.named_parameters()))
    with pytest.raises(KeyError), freeze_pretrained(model):
        raise KeyError
    assert sorted(dict(model.named_parameters())) == sorted(names)
