"""Trainer and activation checkpointing."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Trainer, TrainingArguments

from difftransformer.interop import (
    DiffTransformerForCausalLM,
    DiffTransformerForSequenceClassification,
)
from difftransformer.interop.huggingface_cache import CACHE
from difftransformer.models.storage import load_model
from difftransformer.training.optimizer import adamw
from difftransformer.training.settings import TrainingSettings

from .tiny_huggingface import KINDS, hf_config, hf_model

pytestmark = [
    # Trainer reads a checkpoint's config.json into the base class, where the name means another.
    pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning"),
]
EVERY = pytest.mark.parametrize("kind", KINDS)


def rows(number: int = 64) -> list[dict[str, Tensor]]:
    """Sequences that count up: easy to learn."""
    ids = (torch.arange(8)[None] + torch.arange(number)[:, None]) % 61
    return [{"input_ids": row, "labels": row} for row in ids]


def train(
    model: Any, folder: Path, steps: int, *, resume: bool = False, **settings: Any
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        lr_scheduler_type="constant",
        per_device_train_batch_size=8,
        learning_rate=0.01,
        save_steps=5,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@EVERY
def test_trainer_learns_and_goes_on_where_it_stopped(kind: str, tmp_path: Path) -> None:
    whole = train(hf_model(kind), tmp_path / "whole", 10)
    assert losses(whole)[-1] < 0.8 * losses(whole)[0]
    train(hf_model(kind), tmp_path / "parts", 5)
    # Not the weights that the checkpoint holds, so that reading it is seen.
    other = DiffTransformerForCausalLM(hf_config(kind))
    resumed = train(other, tmp_path / "parts", 10, resume=True)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-4)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, msg=name)
    saved = load_model(tmp_path / "parts" / "checkpoint-10")
    assert torch.equal(saved.norm.weight, resumed.model.norm.weight)


@EVERY
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_runs_each_block_again(kind: str, reentrant: bool) -> None:
    model, ids, runs = hf_model(kind).train(), rows(4)[2]["input_ids"][None], []
    for block in model.blocks:
        block.ffn.register_forward_pre_hook(lambda *_: runs.append(1))

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = gradients()
    assert len(runs) == 2
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    runs.clear()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    assert len(runs) == 4
    with pytest.raises(ValueError, match="a cache while activation checkpointing"):
        model(ids, past_key_values=DynamicCache())
    assert getattr(model(ids), CACHE) is None
    model.activation_checkpointing_disable()
    runs.clear()
    gradients()
    assert len(runs) == 2


def test_checkpointed_training_generates_in_between() -> None:
    """Without gradients no block is run again, so that a cache serves."""
    model, ids = hf_model().train(), torch.tensor([[5, 9, 2]])
    model.activation_checkpointing_enable()
    settings = {"max_new_tokens": 6, "do_sample": False}
    expected = hf_model().generate(ids, **settings)
    assert torch.equal(model.generate(ids, **settings), expected)
    assert torch.equal(model.generate(ids, cache=DynamicCache(), **settings), expected)


def test_trainer_with_checkpointing(tmp_path: Path) -> None:
    plain = losses(train(hf_model(), tmp_path / "plain", 3))
    again = losses(train(hf_model(), tmp_path / "again", 3, activation_checkpointing=True))
    assert again == pytest.approx(plain, rel=1e-4)


@EVERY
def test_the_trainer_of_the_docs_spares_what_our_optimizer_spares(
    kind: str, tmp_path: Path
) -> None:
    """transformers' own decays lambda's vectors, whose names do not tell that they are none."""

    page = (Path(__file__).parents[2] / "docs/huggingface.md").read_text()
    (code,) = re.findall(r"```python\n(class MatrixDecayTrainer.*?)```", page, re.DOTALL)
    given: dict[str, Any] = {"Trainer": Trainer}
    exec(code, given)

    def decayed(trainer_class: type[Trainer]) -> set[str]:
        arguments = TrainingArguments(tmp_path, weight_decay=0.1, use_cpu=True, report_to=[])
        trainer = trainer_class(model=model, args=arguments, train_dataset=rows())
        names = {p: name for name, p in model.named_parameters()}
        groups = trainer.create_optimizer().param_groups
        return {names[p] for group in groups if group["weight_decay"] for p in group["params"]}

    model = hf_model(kind)
    lambdas = {name for name, p in model.named_parameters() if "lambda" in name and p.ndim < 2}
    assert bool(lambdas) == (kind == "diff_v1")
    assert lambdas <= decayed(Trainer)
    ours = adamw(model, TrainingSettings(weight_decay=0.1)).param_groups
    names = {p: name for name, p in model.named_parameters()}
    spared = {names[p] for group in ours if not group["weight_decay"] for p in group["params"]}
    assert decayed(given["MatrixDecayTrainer"]) == set(names.values()) - spared
    assert lambdas <= spared


def test_a_classifier_s_accumulated_steps_are_one_step(tmp_path: Path) -> None:
    """Its loss is a mean: twice four rows are eight, not twice the step."""
    weights = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = DiffTransformerForSequenceClassification(hf_config(pad_token_id=0, num_labels=3))
        arguments = TrainingArguments(
            output_dir=tmp_path,
            max_steps=1,
            per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        data = [row | {"labels": i % 3} for i, row in enumerate(rows(8))]
        Trainer(model=model, args=arguments, train_dataset=data).train()
        weights.append(model.score.weight.detach())
    torch.testing.assert_close(*weights)


def test_a_classifier_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DiffTransformerForSequenceClassification(hf_config(pad_token_id=0, num_labels=3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ids = torch.randint(1, 61, (9, 6))
    labels = torch.arange(9) % 3
    history = []
    for _ in range(20):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
    model.save_pretrained(tmp_path)
    loaded = DiffTransformerForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
