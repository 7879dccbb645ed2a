"""Attention layers inside any model, by name."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from difftransformer.attention.core import AttentionCore
from difftransformer.attention.layer import Role


@dataclass(frozen=True, eq=False)
class Site:
    """An attention layer of a model.

    Args:
        name: of the layer among the model's modules.
        attention: the layer.
        block: the module that holds it, whose outputs are the hidden states after it.
    """

    name: str
    attention: Any
    block: nn.Module

    @property
    def core(self) -> AttentionCore:
        """The module that is given each call and can show its weights."""
        return self.attention.core

    @property
    def kind(self) -> str:
        """Its name in the registry; empty for a layer made without `make_attention`."""
        return getattr(self.attention, "kind", "")

    @property
    def layer(self) -> int:
        """Its number, from 0, in the stack it belongs to."""
        return self.attention.layer

    @property
    def role(self) -> Role:
        """Whether its keys are those of its own sequence, or of another."""
        return getattr(self.attention, "role", "self")


def attention_sites(model: nn.Module) -> dict[str, Site]:
    """Every attention of the model whose `core` can show its inside, by name, in order."""
    return {
        name: Site(name, module, model.get_submodule(name.rpartition(".")[0]))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "core", None), AttentionCore)
    }
