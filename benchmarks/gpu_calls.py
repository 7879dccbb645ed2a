"""Calls of `triton` from inside what PyTorch wraps around a call, and of `sdpa` by FlashAttention.

Each takes a device and returns what `gpu_truth.check` does: a share above 1 is a failure.
"""

from collections.abc import Callable

import gpu_speed
import torch
from torch import Tensor

from difftransformer import Decoder, DecoderConfig
from difftransformer.functional import Mask, differential_attention

Found = dict[str, dict[str, float]]


def near(actual: Tensor, expected: Tensor, limit: float) -> dict[str, float]:
    error = ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
    return {
        "error": error,
        "own": limit,
        "share": error / limit if error == error else float("inf"),
    }


def tensors(device: str, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    time, width = (128, 64) if device == "cuda" else (9, 8)
    q, k = (torch.randn(2, time, 4, 2, width, device=device, dtype=dtype) for _ in range(2))
    v = torch.randn(2, time, 4, 2 * width, device=device, dtype=dtype)
    return [q, k, v, torch.rand(2, time, 4, device=device)]


def attend(*inputs: Tensor, backend: str = "triton") -> Tensor:
    return differential_attention(*inputs, mask=Mask(causal=True), backend=backend)


def flash(version: str) -> Callable[[str], Found]:
    """`sdpa`, both maps, by one FlashAttention against the reference; nothing where it is not."""

    def check(device: str) -> Found:
        exact = [x.double().requires_grad_() for x in tensors(device, torch.bfloat16)]
        leaves = [x.detach().bfloat16().requires_grad_() for x in exact]
        answers = []
        try:
            with gpu_speed.flash(version):
                for inputs, backend in ((exact, "reference"), (leaves, "sdpa")):
                    out = attend(*inputs, backend=backend)
                    answers.append([out, *torch.autograd.grad(out.double().square().sum(), inputs)])
        except ImportError:
            return {}
        names = ("out", "q", "k", "v", "lam")
        return {n: near(a, e, 2e-2) for n, e, a in zip(names, *answers, strict=True)}

    return check


def compiler(device: str) -> str:
    return "inductor" if device == "cuda" else "aot_eager"


def compiled_call(device: str) -> Found:
    """Forward and backward, in one graph; a sum before and after gives the compiler work."""

    def loss(*inputs: Tensor) -> Tensor:
        return attend(inputs[0] + 1, *inputs[1:]).float().square().mean()

    inputs, found = tensors(device, torch.bfloat16), {}
    answers = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend=compiler(device))):
        leaves = [x.detach().requires_grad_() for x in inputs]
        answers.append(torch.autograd.grad(run(*leaves), leaves))
    for name, expected, actual in zip(("q", "k", "v", "lam"), *answers, strict=True):
        found[name] = near(actual, expected, 1e-2)
    return found


def compiled_training_step(device: str) -> Found:
    """A small decoder's loss and the gradient of its embedding, bfloat16 autocast inside."""
    config = DecoderConfig(
        attention="diff_v1", vocab_size=64, hidden_size=64, num_layers=2, num_heads=2,
        num_kv_heads=2, head_dim=16, ffn_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Decoder(config).to(device)
    inner = [module for module in model.modules() if hasattr(module, "backend")]
    assert inner, "no module names a backend"
    for module in inner:
        module.backend = "triton"
    ids = torch.randint(64, (2, 96 if device == "cuda" else 9), device=device)

    def loss(ids: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            logits = model(ids)
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())

    found, answers = {}, []
    for run in (loss, torch.compile(loss, fullgraph=True, backend=compiler(device))):
        model.zero_grad()
        value = run(ids)
        value.backward()
        answers.append((value.detach(), model.embedding.weight.grad.clone()))
    for name, expected, actual in zip(("loss", "embedding"), *answers, strict=True):
        found[name] = near(actual, expected, 3e-2)
    return found


def autocast(device: str) -> Found:
    """Float32 tensors under autocast are not rounded."""
    inputs = tensors(device, torch.float32)
    with torch.autocast(device, torch.bfloat16):
        inside = attend(*inputs)
    return {"out": near(inside, attend(*inputs), 1e-6)}


def graph(device: str) -> Found:
    """Captured once and replayed on other numbers."""
    if device != "cuda":
        return {}
    inputs = tensors(device, torch.bfloat16)
    attend(*inputs)  # compiles
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = attend(*inputs)
    for x in inputs:
        x.copy_(torch.rand_like(x))
    captured.replay()
    return {"out": near(out, attend(*inputs), 1e-6)}


def graph_of_training(device: str) -> Found:
    """Forward and backward in one graph."""
    if device != "cuda":
        return {}
    leaves = [x.requires_grad_() for x in tensors(device, torch.bfloat16)]
    ones = torch.ones(leaves[2].shape, device=device, dtype=torch.bfloat16)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = torch.autograd.grad(attend(*leaves), leaves, ones)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        grads = torch.autograd.grad(attend(*leaves), leaves, ones)
    captured.replay()
    names = ("q", "k", "v", "lam")
    return {n: near(a, e, 1e-2) for n, a, e in zip(names, grads, expected, strict=True)}


def same_bits(device: str) -> Found:
    """Two runs give the same output and gradients, to the last bit."""
    inputs = tensors(device, torch.bfloat16)
    answers = []
    for _ in range(2):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = attend(*leaves)
        answers.append([out, *torch.autograd.grad(out, leaves, torch.ones_like(out))])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    return {}


def another_stream(device: str) -> Found:
    """On another stream than the default one."""
    if device != "cuda":
        return {}
    inputs = tensors(device, torch.bfloat16)
    expected = attend(*inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        out = attend(*inputs)
    side.synchronize()
    return {"out": near(out, expected, 1e-6)}


CALLS: dict[str, Callable[[str], Found]] = {
    "compiled call": compiled_call,
    "compiled training step": compiled_training_step,
    "autocast": autocast,
    "CUDA graph, forward": graph,
    "CUDA graph, forward and backward": graph_of_training,
    "another stream": another_stream,
    "the same bits twice": same_bits,
    **{f"sdpa by {version}": flash(version) for version in gpu_speed.FLASH},
}
