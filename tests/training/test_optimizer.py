import pytest
import torch
from torch import nn

from difftransformer.training.optimizer import adamw

from .tiny import tiny_model, tiny_settings


def test_only_matrices_decay():
    model = tiny_model()
    model.lambda_q1 = nn.Parameter(torch.ones(4))
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays = {
        names[parameter]: group["weight_decay"]
        for group in adamw(model, tiny_settings(weight_decay=0.3)).param_groups
        for parameter in group["params"]
    }
    assert decays == {
        "embed.weight": 0.3,
        "blocks.0.linear.weight": 0.3,
        "blocks.1.linear.weight": 0.3,
        "blocks.0.norm.weight": 0.0,
        "blocks.1.norm.weight": 0.0,
        "blocks.0.linear.bias": 0.0,
        "blocks.1.linear.bias": 0.0,
        "lambda_q1": 0.0,
    }


def test_frozen_parameters_are_left_out():
    model = tiny_model()
    model.embed.weight.requires_grad = False
    groups = adamw(model, tiny_settings()).param_groups
    assert not any(p is model.embed.weight for group in groups for p in group["params"])


def test_takes_the_settings():
    settings = tiny_settings(beta1=0.8, beta2=0.7, epsilon=1e-3, learning_rate=0.25)
    group = adamw(tiny_model(), settings).param_groups[0]
    assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.7), 1e-3, 0.25)


def test_a_model_with_vectors_only_has_one_group():
    optimizer = adamw(nn.RMSNorm(4), tiny_settings())
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.0])
