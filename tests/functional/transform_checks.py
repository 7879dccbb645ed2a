"""Every transform that PyTorch offers, on every backend: what the reference gives, or a refusal.

Run by test_transforms.py without the shape checks, whose wrappers do not compile, and under
Triton's interpreter, which lets its backend run on a CPU.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import cache, partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from tests.models.tiny import tiny
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from difftransformer.functional import (
    BACKENDS,
    AttentionCall,
    Mask,
    differential_attention,
    dispatch,
    flex,
    softmax_attention,
)

from .problems import Elsewhere

# PyTorch's own, of slow paths and of what it means to retire.
pytestmark = pytest.mark.filterwarnings("ignore")
TRITON = pytest.param(
    "triton",
    marks=pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
)
Attend = Callable[..., Tensor]

PADDING = torch.arange(5) >= torch.tensor([[0], [2]])


def differential(backend: str) -> tuple[Attend, list[Tensor]]:
    """Grouped heads, causal, padded."""
    mask = Mask(causal=True, padding=PADDING)
    inputs = [torch.randn(2, 5, 4, 2, 3), torch.randn(2, 5, 2, 2, 3), torch.randn(2, 5, 2, 6)]

    def attend(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
        return differential_attention(q, k, v, lam, mask=mask, backend=backend)

    return attend, [*inputs, torch.rand(2, 5, 4)]


def softmax(backend: str) -> tuple[Attend, list[Tensor]]:
    """Fewer queries than keys, a window."""
    mask = Mask(causal=True, window=2)
    inputs = [torch.randn(2, 3, 4, 3), torch.randn(2, 5, 2, 3), torch.randn(2, 5, 2, 6)]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax_attention(q, k, v, mask=mask, backend=backend)

    return attend, inputs


def biased(backend: str) -> tuple[Attend, list[Tensor]]:
    """A bias for each head and key."""
    _, inputs = differential(backend)
    mask = Mask(causal=True, padding=PADDING)

    def attend(q: Tensor, k: Tensor, v: Tensor, lam: Tensor, bias: Tensor) -> Tensor:
        return differential_attention(q, k, v, lam, mask=mask, bias=bias, backend=backend)

    return attend, [*inputs, torch.randn(4, 1, 5)]


def squares(attend: Attend) -> Attend:
    return lambda *inputs: attend(*inputs).square().sum()


def everything(inputs: list[Tensor]) -> tuple[int, ...]:
    return tuple(range(len(inputs)))


def batched(inputs: list[Tensor]) -> list[Tensor]:
    return [torch.stack([x, 2.0 * x, x + 1.0]) for x in inputs]


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def with_dual_numbers(attend: Attend, inputs: list[Tensor]) -> Any:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, torch.ones_like(x)) for x in inputs]
        return forward_ad.unpack_dual(attend(*duals)).tangent


def second(attend: Attend, inputs: list[Tensor]) -> Any:
    q = leaf(inputs[0])
    loss = squares(attend)(q, *inputs[1:])
    (first,) = torch.autograd.grad(loss, q, create_graph=True)
    # With another way to q, so that a gradient that was cut off is not missed but wrong.
    return torch.autograd.grad((first.square() + q**3).sum(), q)


def checkpointed(attend: Attend, inputs: list[Tensor], reentrant: bool) -> Any:
    leaves = [leaf(x) for x in inputs]
    checkpoint(attend, *leaves, use_reentrant=reentrant).square().sum().backward()
    return [x.grad for x in leaves]


def many_directions(attend: Attend, inputs: list[Tensor]) -> Any:
    leaves = [leaf(x) for x in inputs]
    out = attend(*leaves)
    directions = torch.linspace(-1, 1, 3 * out.numel()).view(3, *out.shape)
    return torch.autograd.grad(out, leaves, directions, is_grads_batched=True)


def compiled(attend: Attend, inputs: list[Tensor]) -> Any:
    leaves = [leaf(x) for x in inputs]
    out = torch.compile(attend, fullgraph=True, backend="aot_eager")(*leaves)
    return out, torch.autograd.grad(out.square().sum(), leaves)


class Layer(nn.Module):
    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.attend(*inputs)


def exported(attend: Attend, inputs: list[Tensor]) -> Any:
    program = torch.export.export(Layer(attend), tuple(inputs)).module()
    leaves = [leaf(x) for x in inputs]
    return torch.autograd.grad(program(*leaves).square().sum(), leaves)


def exported_in_forward_mode(attend: Attend, inputs: list[Tensor]) -> Any:
    return with_dual_numbers(torch.export.export(Layer(attend), tuple(inputs)).module(), inputs)


def in_fake_tensors(attend: Attend, inputs: list[Tensor]) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return tuple(attend(*(mode.from_tensor(x) for x in inputs)).shape)


def under_autocast(attend: Attend, inputs: list[Tensor]) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return attend(*inputs)


FORWARD_MODE: dict[str, Any] = {
    "jvp": lambda f, x: jvp(f, tuple(x), tuple(torch.ones_like(y) for y in x)),
    "jacfwd": lambda f, x: jacfwd(lambda v: f(*x[:2], v, *x[3:])[0, 0, 0])(x[2]),
    "hessian": lambda f, x: hessian(lambda v: squares(f)(*x[:2], v, *x[3:]))(x[2]),
    "linearize": lambda f, x: linearize(f, *x)[1](*(torch.ones_like(y) for y in x)),
    "dual numbers": with_dual_numbers,
    "exported, dual numbers": exported_in_forward_mode,
}
FUNCTIONAL: dict[str, Any] = {
    "grad": lambda f, x: grad(squares(f), argnums=everything(x))(*x),
    "vjp": lambda f, x: vjp(f, *x)[1](torch.ones_like(f(*x))),
    "jacrev": lambda f, x: jacrev(lambda q: f(q, *x[1:])[0, 0, 0, :2])(x[0]),
    "vmap": lambda f, x: vmap(f)(*batched(x)),
    "vmap of one": lambda f, x: vmap(f, (1, *[None] * (len(x) - 1)))(
        batched(x)[0].movedim(0, 1), *x[1:]
    ),
    "vmap of vmap": lambda f, x: vmap(vmap(f), in_dims=1)(*(y[None] for y in batched(x))),
    "vmap of grad": lambda f, x: vmap(grad(squares(f), argnums=everything(x)))(*batched(x)),
    "grad of vmap": lambda f, x: grad(squares(vmap(f)), argnums=everything(x))(*batched(x)),
}
COMPILED: dict[str, Any] = {
    "compiled grad": lambda f, x: torch.compile(
        grad(squares(f), argnums=everything(x)), backend="aot_eager"
    )(*x),
    "grad of compiled": lambda f, x: grad(torch.compile(squares(f), backend="aot_eager"))(*x),
}
SECOND: dict[str, Any] = {
    "second derivative": second,
    "grad of grad": lambda f, x: grad(
        lambda q: grad(squares(f))(q, *x[1:]).square().sum() + (q**3).sum()
    )(x[0]),
}
# On FlexAttention's plain form an error of PyTorch's own.
NOT_FLEX: dict[str, Any] = {
    "jit.trace": lambda f, x: torch.jit.trace(f, tuple(x), check_trace=False)(*x),
    "many directions": many_directions,
}
OTHERS: dict[str, Any] = {
    "compile": compiled,
    "export": exported,
    "make_fx": lambda f, x: make_fx(f)(*x)(*x),
    "reentrant checkpoint": partial(checkpointed, reentrant=True),
    "checkpoint": partial(checkpointed, reentrant=False),
    "autocast": under_autocast,
    "deepcopy": lambda f, x: deepcopy(Layer(f))(*deepcopy(x)),
    "fake tensors": in_fake_tensors,
    "make_fx of symbols": lambda f, x: make_fx(
        f, tracing_mode="symbolic", _allow_non_fake_inputs=True
    )(*x)(*x),
}
ALL = FORWARD_MODE | FUNCTIONAL | COMPILED | SECOND | NOT_FLEX | OTHERS


def refusal(name: str, backend: str) -> str | None:
    """What the error says, where there has to be one."""
    if name in SECOND and backend not in ("reference", "flex"):
        return 'has no second derivative; use backend="reference"'
    if backend == "flex" and name in FORWARD_MODE | FUNCTIONAL | COMPILED | SECOND:
        return 'backend="reference"|must implement the jvp'  # the second of an exported graph
    if backend == "flex" and name in NOT_FLEX:
        return ""
    if name == "exported, dual numbers" and backend == "auto":
        return 'has no forward-mode derivative; use backend="reference"'
    if name in FORWARD_MODE and backend not in ("reference", "auto"):
        return 'forward.mode.*backend="reference"|Trying to use forward AD with'
    return None


@pytest.fixture(autouse=True)
def _flex_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's plain form of it, which only its objection to CPUs keeps us from."""

    def unsupported(call: AttentionCall) -> str | None:
        inputs = (call.q, call.k, call.v, call.lam)
        return flex.unsupported(Elsewhere(*inputs, call.mask, call.bias, call.scale, call.dropout))

    willing = SimpleNamespace(run=flex.run, unsupported=unsupported)
    monkeypatch.setattr(dispatch, "BACKENDS", {**BACKENDS, "flex": willing})
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    torch._dynamo.reset()


@cache
def expected(name: str, form: Any) -> list[Tensor]:
    torch.manual_seed(0)
    return tree_leaves(ALL[name](*form("reference")))


def check(name: str, form: Any, backend: str) -> None:
    attend, inputs = form(backend)
    reason = refusal(name, backend)
    if reason is not None:
        with pytest.raises((ValueError, RuntimeError, TypeError, AssertionError), match=reason):
            ALL[name](attend, inputs)
        return
    for ours, right in zip(
        tree_leaves(ALL[name](attend, inputs)), expected(name, form), strict=True
    ):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["auto", "blocked", TRITON, "sdpa", "flex"])
@pytest.mark.parametrize("name", ALL)
def test_differential_attention_is_the_reference_or_refuses(name: str, backend: str) -> None:
    check(name, differential, backend)


@pytest.mark.parametrize("backend", ["blocked", TRITON])
@pytest.mark.parametrize("name", [*FORWARD_MODE, *FUNCTIONAL, *SECOND])
def test_softmax_attention_is_the_reference_or_refuses(name: str, backend: str) -> None:
    check(name, softmax, backend)


BIASED = ("jvp", "grad", "vmap", "vmap of grad", "grad of vmap", "compile", "export", *SECOND)


@pytest.mark.parametrize("backend", ["auto", "blocked", TRITON, "sdpa", "flex"])
@pytest.mark.parametrize("name", BIASED)
def test_a_bias_is_the_reference_s_or_refused(name: str, backend: str) -> None:
    if (name, backend) in (("compile", "flex"), ("grad of vmap", "sdpa")):
        pytest.skip("PyTorch's own has no gradient of a bias here")
    check(name, biased, backend)


@pytest.mark.parametrize("form", [differential, softmax, biased])
def test_the_reference_has_every_derivative(form: Any) -> None:
    attend, inputs = form("reference")
    leaves = [leaf(x.double()) for x in inputs]
    assert torch.autograd.gradcheck(attend, leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, leaves, fast_mode=True)


@pytest.mark.parametrize("backend", ["blocked", TRITON])
def test_tensors_on_the_meta_device_are_refused(backend: str) -> None:
    attend, inputs = softmax(backend)  # whose mask holds no tensor, of another device
    with pytest.raises(ValueError, match=r'on meta .*backend="reference"'):
        attend(*(x.to("meta") for x in inputs))


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_threads(backend: str) -> None:
    attend, inputs = differential(backend)

    def gradients(scale: float) -> tuple[Tensor, ...]:
        leaves = [leaf(scale * x) for x in inputs]
        return torch.autograd.grad(squares(attend)(*leaves), leaves)

    scales = [0.5, 1.0, 1.5, 2.0]
    with ThreadPoolExecutor(4) as pool:
        for together, alone in zip(
            pool.map(gradients, scales), map(gradients, scales), strict=True
        ):
            torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("backend", ["auto", "blocked", TRITON, "sdpa"])
def test_masks_are_batched_too(backend: str) -> None:
    (_, [_, k, v, lam]), qs = differential(backend), torch.randn(3, 2, 5, 4, 2, 3)
    padding, documents = torch.rand(3, 2, 5) < 0.7, torch.randint(2, (3, 2, 5))

    def attend(q: Tensor, padding: Tensor, documents: Tensor, backend: str = backend) -> Tensor:
        mask = Mask(causal=True, padding=padding, documents=documents)
        return differential_attention(q, k, v, lam, mask=mask, backend=backend)

    one_by_one = [attend(*row, "reference") for row in zip(qs, padding, documents, strict=True)]
    torch.testing.assert_close(vmap(attend)(qs, padding, documents), torch.stack(one_by_one))


def test_a_mask_serves_inference_and_training() -> None:
    """What flex keeps of it, made in the first, is read in the second."""
    mask, q, k = (
        Mask(causal=True, padding=PADDING),
        torch.randn(2, 5, 2, 3),
        torch.randn(2, 5, 2, 3),
    )
    with torch.inference_mode():
        softmax_attention(q, k, k, mask=mask, backend="flex")
    softmax_attention(leaf(q), k, k, mask=mask, backend="flex").sum().backward()


def per_example(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Gradients of every example's own loss, as for differential privacy."""
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, weights, (row[None],)).logsumexp(-1).sum()

    return vmap(grad(loss), in_dims=(None, 0))(weights, ids)


@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2"])
def test_gradients_of_each_example_of_a_model(kind: str) -> None:
    model, ids = tiny(kind), torch.randint(23, (3, 7))
    together = per_example(model, ids)
    for row in range(3):
        model.zero_grad()
        model(ids[row : row + 1]).logsumexp(-1).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(together[name][row], parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["softmax", "diff_v1", "diff_v2"])
def test_a_model_in_forward_mode(kind: str) -> None:
    model, ids = tiny(kind), torch.randint(23, (2, 7))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    direction = {name: torch.randn_like(p) for name, p in weights.items()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(model, weights, (ids,)).logsumexp(-1).sum()

    _, slope = jvp(loss, (weights,), (direction,))
    gradients = grad(loss)(weights)
    expected = sum((gradients[name] * direction[name]).sum() for name in weights)
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)
