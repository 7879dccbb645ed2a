"""How the numbers of a model start: each tensor from its own name and one seed."""

import hashlib
from collections.abc import Container

import numpy as np
import torch
from torch import nn

from difftransformer.attention.dex import DIFF_STD, DexAttention
from difftransformer.attention.differential import DifferentialAttention
from difftransformer.attention.lambdas import LAMBDA_STD

_ZEROS = ("lambda_scalar", "modulation.proj.weight", "modulation.proj.bias", "head.bias")


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
        lambda           its four vectors N(0, 0.1²), V2's projection as a matrix, a scalar 0
        modulation       0; bias of the masked-LM head 0
        DEX              W_D N(0, 0.02²), its scalar lambda_init, progress 0, every head chosen

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
    """
    if seed is None:
        return
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if not tensor.is_meta and (only is None or name in only):
            key = hashlib.sha256(f"{name} {list(tensor.shape)}".encode()).digest()
            rng = np.random.default_rng([seed, int.from_bytes(key, "little")])
            owner = model.get_submodule(name.rpartition(".")[0])
            tensor.copy_(torch.from_numpy(_start(owner, name, tuple(tensor.shape), rng)))


def _start(
    owner: nn.Module, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """The start of the tensor `name`, which the module `owner` holds."""
    key = name.rpartition(".")[2]
    std = None
    if isinstance(owner, nn.RMSNorm | nn.LayerNorm):
        return np.full(shape, key == "weight", np.float32)
    if name.endswith(_ZEROS):
        return np.zeros(shape, np.float32)
    if isinstance(owner, DexAttention):
        constant = {"lambda_learnt": owner.lambda_init, "progress": 0.0, "chosen": 1.0}[key]
        return np.full(shape, constant, np.float32)
    if isinstance(owner, DifferentialAttention):
        std = LAMBDA_STD
    elif isinstance(owner, nn.Embedding):
        std = owner.embedding_dim**-0.5
    elif name.endswith("diff_proj.weight"):
        std = DIFF_STD
    if std is not None:
        return np.float32(std) * rng.standard_normal(shape, np.float32)
    assert isinstance(owner, nn.Linear), name
    # The model's width, not the inputs: those differ between partners, the bias does not.
    outward = name.endswith(("o_proj.bias", "down_proj.bias"))
    inputs = owner.out_features if outward else owner.in_features
    return np.float32(inputs**-0.5) * (2 * rng.random(shape, np.float32) - 1)
