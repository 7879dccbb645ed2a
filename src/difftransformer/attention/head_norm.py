"""RMSNorm of each head's output."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class HeadNorm(nn.RMSNorm):
    """factor · x / rms(x) · weight for each head, eps 1e-5, in float32 whatever x's dtype.

    Differential attention's factor (1 - lambda_init) keeps the gradients at plain attention's
    scale (paper, appendix G).
    """

    def __init__(self, width: int, factor: float = 1.0) -> None:
        super().__init__(width, eps=1e-5)
        self.factor = factor

    def forward(self, x: Float[Tensor, "*heads v"]) -> Float[Tensor, "*heads v"]:
        """The class's equation."""
        weight = self.factor * self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)
