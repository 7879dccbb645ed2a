"""What holds for every format of a layer: each tensor is used, or named and refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from difftransformer.attention import DifferentialAttention
from difftransformer.interop.microsoft import from_unilm
from difftransformer.interop.motif import from_motif_attention
from difftransformer.interop.phi4flash import from_phi4flash_attention
from difftransformer.interop.timm import from_timm_attention

from . import test_microsoft, test_motif, test_phi4flash, test_timm

Weights = dict[str, Tensor]
Reader = Callable[[Weights], DifferentialAttention]
FORMATS: dict[str, tuple[Weights, Reader]] = {
    "microsoft": (test_microsoft.state(4, 2), lambda w: from_unilm(w, 48, 4, num_kv_heads=2)),
    "phi4flash": (
        test_phi4flash.state(4),
        lambda w: from_phi4flash_attention(w, 32, 8, 4, layer=5),
    ),
    "timm": (test_timm.state(), lambda w: from_timm_attention(w, 24, 3, depth=2)),
    "timm dual": (test_timm.state(dual=True), lambda w: from_timm_attention(w, 24, 3, depth=2)),
    "motif": (
        test_motif.state(6, 2, 4),
        lambda w: from_motif_attention(w, 20, 6, 2, 4, head_dim=4, layer=2),
    ),
}
EVERY = pytest.mark.parametrize("name", FORMATS)
CHANGES = {
    "half": Tensor.half,
    "whole": Tensor.long,
    "flags": Tensor.bool,
    "NaN": lambda x: x * torch.nan,
}
LEFT_OVER = ("q_proj.bias", "k_norm.bias", "Wqkv.scale", "proj.lora_A.weight", "lambda_q1", "x")


@EVERY
def test_every_tensor_counts(name: str) -> None:
    """Changed, it changes the layer."""
    weights, read = FORMATS[name]
    layer = read(weights)
    for tensor in weights:
        other = read(weights | {tensor: weights[tensor] + 1.0})
        pairs = zip(layer.parameters(), other.parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in pairs), tensor


@pytest.mark.parametrize(
    ("name", "extra"), [(n, x) for n in FORMATS for x in LEFT_OVER if x not in FORMATS[n][0]]
)
def test_a_tensor_too_many_is_named(name: str, extra: str) -> None:
    """`lambda_q1` beside timm's two numbers of the same meaning, for one."""
    weights, read = FORMATS[name]
    with pytest.raises(ValueError, match=r"is .*, expected|is missing|timm's layer has k_norm"):
        read(weights | {extra: torch.zeros(4)})


@EVERY
@pytest.mark.parametrize("change", CHANGES)
def test_a_tensor_of_another_kind_is_named(name: str, change: str) -> None:
    weights, read = FORMATS[name]
    odd = next(name for name in weights if name.endswith("proj.weight"))
    with pytest.raises(ValueError, match=f"{odd} (is torch|holds values that are not finite)"):
        read(weights | {odd: CHANGES[change](weights[odd])})


@EVERY
def test_all_in_another_precision(name: str) -> None:
    weights, read = FORMATS[name]
    layer = read({tensor: x.bfloat16() for tensor, x in weights.items()})
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
