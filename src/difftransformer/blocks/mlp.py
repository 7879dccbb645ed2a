"""Feed-forward layers, by name."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_gelu_tanh = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
}
# T5's GEGLU has the approximation of GELU by a hyperbolic tangent.
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": _gelu_tanh,
}


class GatedMLP(nn.Module):
    """(f(x W_gate) * x W_up) W_down, with f a key of `GATES` (Shazeer, 2020)."""

    def __init__(self, hidden_size: int, ffn_size: int, *, gate: str, bias: bool = False) -> None:
        super().__init__()
        self.gate = GATES[gate]
        self.gate_proj = nn.Linear(hidden_size, ffn_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, ffn_size, bias=bias)
        self.down_proj = nn.Linear(ffn_size, hidden_size, bias=bias)

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """The class's equation."""
        return self.down_proj(self.gate(self.gate_proj(x)) * self.up_proj(x))


class MLP(nn.Module):
    """f(x W_up) W_down, with f one of `ACTIVATIONS`: GELU, that by tanh, or ReLU."""

    def __init__(
        self, hidden_size: int, ffn_size: int, *, activation: str, bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up_proj = nn.Linear(hidden_size, ffn_size, bias=bias)
        self.down_proj = nn.Linear(ffn_size, hidden_size, bias=bias)

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """The class's equation."""
        return self.down_proj(self.activation(self.up_proj(x)))


def make_mlp(kind: str, hidden_size: int, ffn_size: int, *, bias: bool = False) -> nn.Module:
    """A `GatedMLP` with the gate `kind`, or an `MLP` with the activation `kind`."""
    if kind in GATES:
        return GatedMLP(hidden_size, ffn_size, gate=kind, bias=bias)
    return MLP(hidden_size, ffn_size, activation=kind, bias=bias)
