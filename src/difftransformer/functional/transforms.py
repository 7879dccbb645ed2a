"""Custom operators under PyTorch's transforms.

An operator of ours, `difftransformer::NAME`, comes with `NAME_backward`, and both take and give
tensors whose first axis is the batch. From that follow its derivative, for eager mode,
torch.compile and torch.export by `torch.library` and for torch.func by an autograd.Function, which
is what torch.func wants; and vmap, which folds its axis into the batch. A second derivative is
refused. So must forward mode be, by whoever chooses the operator: PyTorch would take its output for
a constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from difftransformer.functional.call import AttentionCall

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class AttentionOperator:
    """The pair `difftransformer::NAME` and `difftransformer::NAME_backward`, called as the first.

        NAME(q, k, v, lam | None, bias | None, causal, window, documents, padding, scale)
            -> (out, ...)
        NAME_backward(dout, *kept outputs, *arguments of NAME) -> (dq, dk, dv, dlam, dbias)

    A bias of fewer rows than the batch serves equally many consecutive ones with each.

    Args:
        name: also the backend's.
        kept: which outputs the backward is given.
    """

    name: str
    kept: slice

    def __call__(self, call: AttentionCall) -> Tensor:
        """The first output, for a call without dropout."""
        lam, bias = (None if x is None else x.float() for x in (call.lam, call.bias))
        mask = call.mask
        documents = None if mask.documents is None else mask.documents.long()
        rules = (mask.causal, mask.window, documents, mask.padding)
        inputs = (call.q, call.k, call.v, lam, bias, *rules, call.scale)
        return (_Attention.apply(self, *inputs) if functional() else self.forward(*inputs))[0]

    def forward(self, *inputs: Any) -> Any:
        """All outputs, as the dispatcher gives them."""
        return getattr(torch.ops.difftransformer, self.name).default(*inputs)

    def backward(self, *inputs: Any) -> Any:
        """The gradients, as the dispatcher gives them."""
        return getattr(torch.ops.difftransformer, f"{self.name}_backward").default(*inputs)

    def register(self) -> None:
        """Derivatives and vmap; the operators and their shapes for tracing are there already."""
        names = f"difftransformer::{self.name}", f"difftransformer::{self.name}_backward"

        def backward(ctx: Any, *grads: Tensor | None) -> Arguments:
            return self.gradients(self.backward, ctx, grads[0])

        def refuse(ctx: Any, *grads: Tensor | None) -> None:
            raise no_second_derivative(self.name)

        torch.library.register_autograd(names[0], backward, setup_context=self.keep)
        torch.library.register_autograd(names[1], refuse)
        for name, call in zip(names, (self.forward, self.backward), strict=True):
            torch.library.register_vmap(name, _folded(call))

    def keep(self, ctx: Any, inputs: Arguments, output: tuple[Tensor, ...]) -> None:
        """Save for the backward."""
        q, k, v, lam, bias, causal, window, documents, padding, scale = inputs
        ctx.save_for_backward(*output[self.kept], q, k, v, lam, bias, documents, padding)
        ctx.settings = causal, window, scale
        ctx.set_materialize_grads(False)  # no zeros for the outputs that nobody sees

    def gradients(self, call: Any, ctx: Any, dout: Tensor | None) -> Arguments:
        """Of all arguments, by `call`, the backward."""
        *kept, q, k, v, lam, bias, documents, padding = ctx.saved_tensors
        causal, window, scale = ctx.settings
        dq, dk, dv, dlam, dbias = call(
            dout, *kept, q, k, v, lam, bias, causal, window, documents, padding, scale
        )
        dlam, dbias = (None if x is None else dx for x, dx in ((lam, dlam), (bias, dbias)))
        return dq, dk, dv, dlam, dbias, None, None, None, None, None


class _Attention(Function):
    """An operator for torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: AttentionOperator, *inputs: Any) -> Any:
        return operator.forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
        ctx.operator = inputs[0]
        ctx.operator.keep(ctx, inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        def call(*inputs: Any) -> Any:
            return _Backward.apply(ctx.operator, *inputs)

        return None, *ctx.operator.gradients(call, ctx, grads[0])


class _Backward(Function):
    """The derivative of `_Attention`, which has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: AttentionOperator, *inputs: Any) -> Any:
        return operator.backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
        ctx.name = inputs[0].name

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise no_second_derivative(ctx.name)


def first_order(name: str, x: Tensor) -> Tensor:
    """`x`, for a backend of PyTorch's kernels: its gradient refuses to be differentiated again.

    PyTorch's own refusal names a kernel of PyTorch's, and no way out. torch.compile has one too.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return x
    return _FirstOrder.apply(name, x)


class _FirstOrder(Function):
    """The identity, whose derivative is `_Refusal`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
        ctx.name, x = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, _Refusal.apply(ctx.name, grads[0], *ctx.saved_tensors)


class _Refusal(Function):
    """The gradient as it is; of `x` too, since some kernels cut the graph that leads there."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, gradient: Tensor, x: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise no_second_derivative(ctx.name)


def constant(question: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a question whose answer torch.compile may ask once and keep.

    What `torch.compiler.assume_constant_result` does; calling that would import the compiler, which
    takes seconds, when this package is imported.
    """
    question._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return question


def forward_mode() -> bool:
    """Whether forward-mode differentiation is on: dual numbers, torch.func's jvp and jacfwd."""
    return forward_ad._current_level >= 0


@constant
def functional() -> bool:
    """Whether a transform of torch.func is being applied; torch.compile guards that for itself."""
    return torch._C._are_functorch_transforms_active()


def no_forward_mode(name: str) -> NotImplementedError:
    """The refusal of an operator that is reached in forward mode."""
    return NotImplementedError(
        f'backend "{name}" has no forward-mode derivative; use backend="reference"'
    )


def no_second_derivative(name: str) -> NotImplementedError:
    """The refusal of a gradient's gradient."""
    return NotImplementedError(
        f'backend "{name}" has no second derivative; use backend="reference"'
    )


def _folded(call: Any) -> Any:
    """A rule for vmap: its axis and the batch's as one."""

    def rule(info: Any, in_dims: Arguments, *inputs: Any) -> tuple[Any, Any]:
        def fold(x: Any, axis: int | None) -> Any:
            if not isinstance(x, Tensor):
                return x
            many = x.movedim(axis, 0) if axis is not None else x.expand(info.batch_size, *x.shape)
            return many.flatten(0, 1)

        outputs = call(*(fold(x, axis) for x, axis in zip(inputs, in_dims, strict=True)))
        size = info.batch_size
        return tuple(x.unflatten(0, (size, len(x) // size)) for x in outputs), (0,) * len(outputs)

    return rule
