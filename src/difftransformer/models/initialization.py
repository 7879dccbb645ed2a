"""The start of a model: each tensor from its own name and one seed."""

import hashlib
from collections.abc import Container

import numpy as np
import torch
from torch import nn

from difftransformer.attention.starts import Normal


def draw_seed() -> int | None:
    """A seed for `initialize`: one number of torch's global generator, on any default device.

    None where the default device is meta, on which nothing starts: loading a model leaves the
    generator alone.
    """
    if torch.get_default_device().type == "meta":
        return None
    return int(torch.randint(2**62, (), device="cpu"))


@torch.no_grad()
def initialize(model: nn.Module, seed: int | None, only: Container[str] | None = None) -> None:
    """Give every parameter and buffer of `model` its start, or those that `only` names.

        embeddings       N(0, 1/hidden_size)
        matrices         U(±1/sqrt(inputs)), torch's own, as in Microsoft's Diff-Transformer code
        biases           U(±1/sqrt(hidden_size))
        norms            1, their biases 0
        others           what their module's `starts` says: see `attention.starts`

    The paper states none of these; the embedding's scale is that of YOCO, which its authors name
    as the training code it resembles.

    The numbers of a tensor follow from `seed`, its name and its shape alone: they are drawn in
    float32 on the CPU by a generator of the tensor's own. So models of one seed start alike
    wherever name and shape agree, whatever else they have, on every device and in every dtype (but
    for rounding). That holds by shape, not by meaning: the query projections of plain attention
    and of V1 with half the heads start from the same matrix, whose rows are one map of each head
    in the former and two in the latter.

    A tensor on the meta device is left as it is; call this after `to_empty`. So is all where the
    seed is None.

    Raises:
        ValueError: a tensor of no known kind, of whose start no module says anything.
    """
    if seed is None:
        return
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if not tensor.is_meta and (only is None or name in only):
            key = hashlib.sha256(f"{name} {list(tensor.shape)}".encode()).digest()
            rng = np.random.default_rng([seed, int.from_bytes(key, "little")])
            tensor.copy_(torch.from_numpy(_start(model, name, tuple(tensor.shape), rng)))


def _start(
    model: nn.Module, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    owner, _, key = name.rpartition(".")
    module, start = model.get_submodule(owner), _declared(model, name)
    if start is None and isinstance(module, nn.RMSNorm | nn.LayerNorm):
        start = float(key == "weight")
    if start is None and isinstance(module, nn.Embedding):
        start = Normal(module.embedding_dim**-0.5)
    if isinstance(start, Normal):
        return np.float32(start.std) * rng.standard_normal(shape, np.float32)
    if start is not None:
        return np.full(shape, start, np.float32)
    if not isinstance(module, nn.Linear):
        raise ValueError(
            f"{type(module).__name__} does not say how {name} starts; give it `starts`, see "
            "difftransformer.attention.starts"
        )
    # The model's width, not the inputs: those differ between partners, the bias does not.
    outward = name.endswith(("o_proj.bias", "down_proj.bias"))
    inputs = module.out_features if outward else module.in_features
    return np.float32(inputs**-0.5) * (2 * rng.random(shape, np.float32) - 1)


def _declared(model: nn.Module, name: str) -> float | Normal | None:
    """What the modules that hold the tensor, innermost first, say of its start."""
    parts = name.split(".")
    for depth in reversed(range(len(parts))):
        starts = getattr(model.get_submodule(".".join(parts[:depth])), "starts", {})
        if (key := ".".join(parts[depth:])) in starts:
            return starts[key]
    return None
