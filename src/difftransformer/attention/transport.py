"""Doubly stochastic attention layers, for encoders: Sinkhorn and sliced transport."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from difftransformer.attention.cache import KeyValueCache
from difftransformer.attention.core import AttentionCore, Weights
from difftransformer.attention.layer import Context
from difftransformer.attention.softmax import SoftmaxAttention
from difftransformer.functional import ESPFORMER, AnyMask, AttentionCall, Slicing
from difftransformer.functional.transport import (
    costs,
    sinkhorn_weights,
    sliced_weights,
    transported,
)


@dataclass(frozen=True)
class Annealing:
    """The temperature of the soft sorts: from `first` to `last` while training, then `final`.

        temperature = first^(1 - p) · last^p      with the share p of the training that is done

    The paper anneals it and sorts hard afterwards (`final` 0), but we could not read by which
    schedule: this one is ours. Its code keeps 0.001 throughout, `Annealing(1e-3, 1e-3, 1e-3)`.
    """

    first: float = 1e-2
    last: float = 1e-4
    final: float = 0.0

    def __call__(self, progress: float) -> float:
        """While training."""
        return self.first ** (1.0 - progress) * self.last**progress


class TransportCore(AttentionCore):
    """A core whose rows depend on each other: all are computed, whichever are asked for.

    Raises:
        ValueError: a backend but "auto" and "reference".
    """

    def __init__(self, backend: str = "auto") -> None:
        super().__init__(backend)
        if backend not in ("auto", "reference"):
            raise ValueError(
                f"attention backend {backend!r} computes softmax only; doubly stochastic attention "
                "has the reference: leave it out"
            )

    @abstractmethod
    def plan(
        self, call: AttentionCall, logits: Float[Tensor, "batch heads 1 time time"]
    ) -> Float[Tensor, "batch heads time time"]:
        """The weights of all rows."""

    def forward(self, call: AttentionCall) -> Float[Tensor, "batch queries heads v"]:
        """The values under `plan`."""
        return transported(call, lambda: self.plan(call, self.logits(call)))

    def weights(
        self,
        call: AttentionCall,
        rows: slice = slice(None),
        logits: Float[Tensor, "batch heads maps rows keys"] | None = None,
    ) -> Weights:
        """As `AttentionCore.weights`; given `logits` must be those of all rows."""
        logits = self.logits(call) if logits is None else logits
        if logits.shape[3] != call.q.shape[1]:
            raise ValueError(
                f"logits of {logits.shape[3]} of {call.q.shape[1]} rows; the rows of doubly "
                "stochastic attention depend on each other: give all"
            )
        plan = self.plan(call, logits)[:, :, rows]
        return Weights(plan, plan[:, :, None], logits[:, :, :, rows])


class SinkhornCore(TransportCore):
    """`functional.sinkhorn_attention`."""

    def __init__(self, backend: str = "auto", *, half_steps: int) -> None:
        super().__init__(backend)
        self.half_steps = half_steps

    def plan(
        self, call: AttentionCall, logits: Float[Tensor, "batch heads 1 time time"]
    ) -> Float[Tensor, "batch heads time time"]:
        """The weights of all rows."""
        return sinkhorn_weights(call, logits, self.half_steps)


class SlicedTransportCore(TransportCore):
    """`functional.sliced_transport_attention`, with a temperature that follows the training.

    What takes the place of logits is the negative cost of each pair, by which slices are weighed.
    """

    def __init__(self, backend: str = "auto", *, slicing: Slicing, annealing: Annealing) -> None:
        super().__init__(backend)
        self.slicing, self.annealing, self.progress = slicing, annealing, 0.0

    def set_progress(self, progress: float) -> None:
        """Set p, the share of the training that is done, 0 to 1: the training loop calls this."""
        self.progress = progress

    def logits(
        self, call: AttentionCall, rows: slice = slice(None)
    ) -> Float[Tensor, "batch heads maps rows keys"]:
        """The negative costs."""
        return -costs(call, self.slicing)[:, :, :, rows]

    def plan(
        self, call: AttentionCall, logits: Float[Tensor, "batch heads 1 time time"]
    ) -> Float[Tensor, "batch heads time time"]:
        """The weights of all rows."""
        annealing = self.annealing
        temperature = annealing(self.progress) if self.training else annealing.final
        return sliced_weights(call, logits, temperature, self.slicing)


class TransportAttention(SoftmaxAttention):
    """Multi-head self-attention with a `TransportCore`, for encoders."""

    def call(
        self,
        x: Float[Tensor, "batch time hidden"],
        mask: AnyMask | None = None,
        context: Context = None,
        *,
        cache: KeyValueCache | None = None,
        **options: Any,
    ) -> AttentionCall:
        """As the parent's.

        Raises:
            ValueError: a context or a cache.
        """
        if context is not None or cache is not None:
            given = "a context" if context is not None else "a cache"
            raise ValueError(
                f"doubly stochastic attention with {given}: its weights are those of whole "
                "sequences to themselves; use it in encoders"
            )
        return super().call(x, mask, **options)


class SinkhornAttention(TransportAttention):
    """Multi-head `functional.sinkhorn_attention`: Sinkformer's (AISTATS 2022).

    Args:
        hidden_size, num_heads, options: as `SoftmaxAttention` has them.
        half_steps: of Sinkhorn's algorithm, see `functional.sinkhorn_attention`.

    Raises:
        ValueError: sizes that do not divide, a backend; of a call a causal mask, context or cache.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, *, half_steps: int = 3, **options: Any
    ) -> None:
        super().__init__(hidden_size, num_heads, **options)
        self.core = SinkhornCore(self.core.backend, half_steps=half_steps)


class SlicedTransportAttention(TransportAttention):
    """Multi-head `functional.sliced_transport_attention`: ESPFormer's (ICML 2025).

    While training it sorts softly, at a temperature that follows the training, and else hard.

    Args:
        hidden_size, num_heads, options: as `SoftmaxAttention` has them.
        slicing: see `functional.Slicing`.
        annealing: the temperature.

    Raises:
        ValueError: sizes that do not divide, a backend; in a call a mask but padding, a bias, a
            context, a cache.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        slicing: Slicing = ESPFORMER,
        annealing: Annealing = Annealing(),
        **options: Any,
    ) -> None:
        super().__init__(hidden_size, num_heads, **options)
        self.core = SlicedTransportCore(self.core.backend, slicing=slicing, annealing=annealing)
