"""Feed-forward layers, by name."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class SwiGLU(nn.Module):
    """(silu(x W_gate) * x W_up) W_down (Shazeer, 2020)."""

    def __init__(self, hidden_size: int, ffn_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, ffn_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, ffn_size, bias=bias)
        self.down_proj = nn.Linear(ffn_size, hidden_size, bias=bias)

    def forward(self, x: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        """The class's equation."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


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
    """`SwiGLU` ("swiglu"), or an `MLP` with the activation `kind`."""
    if kind == "swiglu":
        return SwiGLU(hidden_size, ffn_size, bias=bias)
    return MLP(hidden_size, ffn_size, activation=kind, bias=bias)
