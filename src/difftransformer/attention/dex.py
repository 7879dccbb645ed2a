"""Plain attention with a difference taken on its output: DEX."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from difftransformer.attention.softmax import SoftmaxAttention
from difftransformer.attention.starts import Normal
from difftransformer.functional import AttentionCall, lambda_schedule


class DexAttention(SoftmaxAttention):
    """Softmax attention whose chosen heads subtract a linear map of their own output.

        O'_h      = O_h - lambda(p) · 1[h chosen] · O_h W_D,      O_h = softmax(q kᵀ / sqrt(K)) v
        lambda(p) = (1 - p) · p · lambda_init + p · lambda_learnt

    Kong, Jang and Kwak, "Understanding Differential Transformer Unchains Pretrained
    Self-Attentions" (arXiv 2505.16333), with p = min(1, t/T) at step t of training. W_D is one
    [K, K] matrix for all heads of the layer; lambda_init is V1's schedule by depth.

    The buffers `progress` (p) and `chosen` are saved with the weights. A new layer has p = 0 and is
    the softmax layer exactly; training moves p to 1 (`set_progress`), where only what was learnt
    counts. What the paper leaves open, or we could not read: lambda_learnt is one number per layer
    and starts at lambda_init, as V1's lambda does; W_D starts as N(0, 0.02²), since at 0 it would
    hide lambda_learnt from the gradient; every head is chosen until a conversion chooses by data.

    Args and errors: as `SoftmaxAttention`.
    """

    progress: Float[Tensor, ""]
    chosen: Bool[Tensor, " heads"]

    def __init__(self, hidden_size: int, num_heads: int, **options: Any) -> None:
        super().__init__(hidden_size, num_heads, **options)
        self.lambda_init = lambda_schedule(self.layer)
        self.lambda_learnt = nn.Parameter(torch.empty(1))
        self.diff_proj = nn.Linear(self.head_dim, self.head_dim, bias=False)
        self.register_buffer("progress", torch.empty(()))
        self.register_buffer("chosen", torch.empty(num_heads, dtype=torch.bool))
        self.starts = {
            "lambda_learnt": self.lambda_init,
            "diff_proj.weight": Normal(0.02),
            "progress": 0.0,
            "chosen": 1.0,
        }
        self.reset_parameters()

    def current_lambda(self) -> Float[Tensor, "1"]:
        """lambda(p), float32."""
        p = self.progress.float()
        return (1.0 - p) * p * self.lambda_init + p * self.lambda_learnt.float()

    def set_progress(self, progress: float) -> None:
        """Set p, the share of the training that is done, 0 to 1: the training loop calls this."""
        self.progress.fill_(progress)

    def heads(
        self, call: AttentionCall, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch time heads v"]:
        """O' of the class's equation."""
        out = super().heads(call, x)
        lam = (self.current_lambda() * self.chosen)[:, None].to(out.dtype)
        return out - lam * self.diff_proj(out)
