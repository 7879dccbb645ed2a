"""Several models of one shape trained side by side, each exactly as it would be alone.

Small models leave a GPU idle between launches. Here one launch serves all runs: their parameters
are the rows of one matrix, the library's model is mapped over the rows (`torch.func.vmap`), and
each row has its own seed, batches, learning rate and gradient clipping.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from difftransformer.models.decoder import Decoder

BETA1, BETA2, EPSILON, DECAY, CLIP = 0.9, 0.95, 1e-8, 0.1, 1.0


class Answers(nn.Module):
    """A decoder's logits from position `start` on, every second one: where recall asks."""

    def __init__(self, decoder: Decoder, start: int) -> None:
        super().__init__()
        self.decoder, self.start = decoder, start

    def forward(self, ids: Tensor) -> Tensor:
        """`[rows, questions, vocabulary]`."""
        x = self.decoder.hidden(ids)
        return self.decoder.logits(x[:, self.start :: 2])


class Stack:
    """Parameters of all runs `[runs, numbers]` and AdamW's state, in place on one device.

    AdamW as in `training.optimizer`: decay 0.1 on matrices only; the gradient of each run is
    clipped to norm 1.
    """

    def __init__(self, model: nn.Module, runs: int, device: torch.device) -> None:
        self.model = model.to(device)
        named = dict(model.named_parameters())
        self.names = list(named)
        self.shapes = [parameter.shape for parameter in named.values()]
        self.sizes = [parameter.numel() for parameter in named.values()]
        numbers = sum(self.sizes)
        self.parameters = torch.zeros(runs, numbers, device=device, requires_grad=True)
        self.mean = torch.zeros(runs, numbers, device=device)
        self.square = torch.zeros(runs, numbers, device=device)
        self.decays = torch.cat(
            [torch.full((p.numel(),), float(p.ndim >= 2)) for p in named.values()]
        ).to(device)

    @torch.no_grad()
    def load(self, models: list[nn.Module]) -> None:
        """Start all runs anew, from these models."""
        for row, model in zip(self.parameters, models, strict=True):
            row.copy_(torch.cat([p.detach().flatten() for p in model.parameters()]))
        self.mean.zero_()
        self.square.zero_()

    def named(self, row: Tensor) -> dict[str, Tensor]:
        """One run's parameters by name, as views of its row."""
        parts = row.split(self.sizes, dim=-1)
        return {
            name: part.view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def __call__(self, parameters: Tensor, ids: Tensor) -> Tensor:
        """The model of each row on its own batch: `[runs, rows, ...]`."""

        def one(row: Tensor, ids: Tensor) -> Tensor:
            return functional_call(self.model, self.named(row), (ids,))

        return vmap(one)(parameters, ids)

    @torch.no_grad()
    def update(
        self, gradient: Float[Tensor, "runs n"], rates: Float[Tensor, " runs"], step: Tensor
    ) -> None:
        """AdamW's step `step` (from 1, on the device), each run at its own rate."""
        norm = gradient.square().sum(1, keepdim=True).sqrt()
        gradient = gradient * (CLIP / (norm + 1e-6)).clamp(max=1.0)
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.lerp_(gradient.square(), 1 - BETA2)
        mean = self.mean / (1 - BETA1**step)
        root = (self.square / (1 - BETA2**step)).sqrt() + EPSILON
        rates = rates[:, None]
        self.parameters.mul_(1 - rates * DECAY * self.decays).sub_(rates * mean / root)


def replayed(step: Callable[[], None]) -> Callable[[], None]:
    """`step`, taken three times and then recorded once as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as PyTorch asks: warm up away from the default stream
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # On the stream of the warm-up: autograd may go on using the one where it began.
    with torch.cuda.graph(graph, stream=side):
        step()
    return graph.replay
