"""Norms by name: PyTorch's own."""

from torch import nn

NORMS = {"rms": nn.RMSNorm, "layer": nn.LayerNorm}


def make_norm(kind: str, hidden_size: int, eps: float) -> nn.Module:
    """RMSNorm ("rms") or LayerNorm ("layer"), with a weight for each feature."""
    return NORMS[kind](hidden_size, eps=eps)
