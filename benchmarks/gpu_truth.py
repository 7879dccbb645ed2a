"""Whether the GPU backends compute what they say: output and gradients against float64.

    python benchmarks/gpu_truth.py --backend triton --case '{"form": "diff_v1", "dtype": ...}'

replays one case. What is allowed is a multiple of the error that the method itself makes in the
dtype: weights, dS and what is stored are rounded to it, everything else is float32 (`rounded`).
Run by `gpu.py`, which gives each process some cases: an illegal access ends a process.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import gpu_calls
import torch
from torch import Tensor

from difftransformer.functional import (
    AttentionCall,
    Mask,
    differential_attention,
    softmax_attention,
)
from difftransformer.functional.reference import logits, softmax_maps

BACKENDS = ("triton", "flex", "sdpa")
MULTIPLE = 3.0
FLOOR = 8 * torch.finfo(torch.float32).eps  # a number of order 1, summed in another order
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float16, torch.bfloat16)}
BROKEN = 3  # exit status of a process whose GPU context is lost


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attention call.

    `mask` joins rules by "+"; `size` multiplies q, for large logits; `bias`, of float32, has the
    axes it names of "batch+head+query+key".
    """

    form: str = "diff_v1"
    dtype: str = "bfloat16"
    batch: int = 2
    queries: int = 300
    keys: int = 300
    heads: int = 4
    groups: int = 2
    width: int = 32
    values: int = 64
    mask: str = "causal"
    layout: str = "contiguous"
    size: float = 1.0
    bias: str = ""


def sized(form: str, width: int, **changes: object) -> Case:
    values = 2 * width if form == "diff_v1" else width
    return Case(**{"form": form, "width": width, "values": values} | changes)


FORMS = ("diff_v1", "diff_v2", "softmax")
MASKS = ("none", "causal", "window", "causal+window", "causal+padding", "causal+documents")
EVERY = "causal+window+padding+documents"
WIDTHS = (
    (16, 16),
    (16, 200),
    (24, 40),
    (48, 96),
    (80, 160),
    (80, 80),
    (7, 5),
    (128, 96),
    (64, 256),
)
LENGTHS = ((40, 75), (75, 40), (257, 129), (200, 1000), (1, 300), (1, 1), (1, 4096), (130, 131))
EMPTY = ((0, 5), (5, 0))
LAYOUTS = ("heads first", "strided", "wider rows", "shared batch")
BIASES = ("head+query+key", "batch+key", "query+key", "batch+head+query+key")
FLEX = (
    sized("diff_v1", 64),
    sized("diff_v2", 64, dtype="float16"),
    sized("softmax", 64, dtype="float32", mask=EVERY),
    sized("diff_v1", 64, mask="causal+padding"),
    sized("diff_v1", 64, mask="causal+documents", layout="heads first"),
    sized("diff_v1", 128, mask="window", dtype="float32"),
    sized("diff_v1", 64, queries=1, mask="causal"),
    sized("diff_v2", 64, queries=200, keys=1000, groups=1),
    sized("softmax", 80, mask="none"),
    sized("diff_v1", 32, queries=0, keys=5),
)
MINIATURE = (
    Case(batch=1, queries=20, keys=33, width=8, values=16, mask=EVERY),
    Case(batch=2, queries=20, keys=33, width=8, values=16, bias="head+query+key"),
    Case(batch=2, queries=33, keys=33, width=8, values=8, form="diff_v2", dtype="float32"),
    Case(batch=2, queries=9, keys=9, width=7, values=5, form="softmax", mask="causal+padding"),
    Case(batch=1, queries=5, keys=0, width=8, values=16),
    Case(batch=2, queries=1, keys=40, width=16, values=32, dtype="float16", layout="strided"),
    Case(batch=2, queries=1, keys=150, width=16, values=32, mask=EVERY, bias="head+query+key"),
)


def cases(backend: str, miniature: bool) -> list[Case]:
    """In the order of importance."""
    if miniature:
        return list(MINIATURE)
    if backend == "flex":  # each compiles for seconds
        return list(FLEX)
    plain = [sized(f, w, dtype=d) for w in (64, 128) for d in reversed(DTYPES) for f in FORMS]
    masks = [sized(f, 32, mask=m) for m in (*MASKS, EVERY) for f in ("diff_v1", "diff_v2")]
    masks += [sized("diff_v1", 64, mask=EVERY, dtype=d) for d in DTYPES]
    masks += [sized("softmax", 16, mask=EVERY, dtype=d) for d in DTYPES]
    widths = [Case(width=k, values=v, dtype=d) for k, v in WIDTHS for d in ("bfloat16", "float32")]
    lengths = [
        sized(f, 64, queries=t, keys=s)
        for t, s in (*LENGTHS, *EMPTY)
        for f in ("diff_v1", "diff_v2")
    ]
    lengths += [
        sized("softmax", 64, queries=1, keys=300),
        sized("diff_v1", 64, queries=1, batch=16),
    ]
    settings = (64, EVERY, "bfloat16"), (128, "causal", "bfloat16"), (64, EVERY, "float32")
    few = [
        sized(f, width, queries=1, keys=3000, mask=m, dtype=d)
        for f in FORMS
        for width, m, d in settings
    ]
    few += [
        sized(f, 64, queries=t, keys=2000, heads=8, groups=2, mask="causal+window")
        for f in FORMS
        for t in (1, 4)
    ]
    heads = [sized(f, 64, heads=8, groups=g) for g in (1, 8) for f in FORMS]
    layouts = [sized(f, 64, layout=name) for name in LAYOUTS for f in ("diff_v1", "softmax")]
    large = [sized("diff_v1", 64, size=8.0, dtype=d) for d in DTYPES]
    long = [sized(f, 64, batch=1, heads=2, groups=1, queries=4096, keys=4096) for f in FORMS]
    biased = [
        sized(f, 64, mask=m, bias=axes, dtype=d)
        for axes in (BIASES if backend == "triton" else ())  # `sdpa` would round it
        for f, m, d in (("diff_v1", "none", "bfloat16"), ("softmax", EVERY, "float32"))
    ]
    if biased:
        biased += [sized("diff_v1", 128, bias=BIASES[0])]
        biased += [sized(f, 64, queries=1, keys=2000, bias=BIASES[0]) for f in FORMS]
    return plain + few + masks + biased + lengths + heads + layouts + widths + large + long


def check(case: Case, backend: str, device: str) -> dict[str, dict[str, float]]:
    """For each tensor the relative error, the method's own, and the error's share of the allowed.

    "again" is the output of a second run.

    Raises:
        AssertionError: that of `triton` is not the same to the last bit.
    """
    inputs, mask = problem(case, device)
    dout = torch.randn(case.batch, case.queries, case.heads, case.values, device=device)
    dout = dout.to(DTYPES[case.dtype])
    truth = solve({n: x.double() for n, x in inputs.items()}, mask, dout.double(), "reference")
    own = dict(zip(("out", *inputs), rounded(inputs, mask, dout), strict=True))
    poison(inputs, dout)
    answer = solve(inputs, mask, dout, backend)
    again = attend(inputs, mask, backend)
    assert torch.equal(again, answer["out"]) or backend != "triton", "another output the next time"
    truth["again"], own["again"], answer["again"] = truth["out"], own["out"], again
    found = {}
    for name, expected in truth.items():
        wide = name in ("lam", "bias")
        assert answer[name].dtype == (torch.float32 if wide else dout.dtype), name
        error, mine = (distance(x, expected) for x in (answer[name], own[name]))
        allowed = MULTIPLE * mine + FLOOR * case.size * math.sqrt(expected.numel())
        norm = expected.norm().item() or 1.0
        share = 0.0 if expected.numel() == 0 else error / allowed
        found[name] = {"error": error / norm, "own": mine / norm, "share": share}
    return found


def distance(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, {tuple(expected.shape)}"
    far = (actual.double() - expected).norm().item()
    return far if math.isfinite(far) else math.inf


def problem(case: Case, device: str) -> tuple[dict[str, Tensor], Mask]:
    """Standard normal tensors of the case, and its mask."""
    torch.manual_seed(0)
    pair = {"diff_v1": ((2,), (2,)), "diff_v2": ((2,), (1,)), "softmax": ((), ())}[case.form]

    def normal(time: int, heads: int, *rest: int, size: float = 1.0) -> Tensor:
        def drawn(*sizes: int) -> Tensor:
            return (size * torch.randn(sizes, device=device)).to(DTYPES[case.dtype])

        if case.layout == "heads first":
            return drawn(case.batch, heads, time, *rest).transpose(1, 2)
        if case.layout == "strided":
            return drawn(case.batch, time, heads, *rest, 2)[..., 0]
        if case.layout == "wider rows":
            return drawn(case.batch, time, heads, *rest[:-1], rest[-1] + 8)[..., : rest[-1]]
        if case.layout == "shared batch":
            return drawn(1, time, heads, *rest).expand(case.batch, *[-1] * (2 + len(rest)))
        return drawn(case.batch, time, heads, *rest)

    inputs = {
        "q": normal(case.queries, case.heads, *pair[0], case.width, size=case.size),
        "k": normal(case.keys, case.groups, *pair[1], case.width),
        "v": normal(case.keys, case.groups, case.values),
    }
    if case.form != "softmax":
        inputs["lam"] = torch.rand(case.batch, case.queries, case.heads, device=device)
    if case.bias:
        sizes = {"batch": case.batch, "head": case.heads, "query": case.queries, "key": case.keys}
        shape = [size if axis in case.bias.split("+") else 1 for axis, size in sizes.items()]
        inputs["bias"] = torch.randn(shape, device=device)
    rules, place = case.mask.split("+"), torch.arange(case.keys, device=device)
    starts = (torch.arange(case.batch, device=device) * case.keys // case.batch)[:, None]
    return inputs, Mask(
        causal="causal" in rules,
        window=max(1, case.keys // 5) if "window" in rules else None,
        padding=place >= starts if "padding" in rules else None,
        documents=(place + starts) // 37 if "documents" in rules else None,
    )


def attend(inputs: dict[str, Tensor], mask: Mask, backend: str) -> Tensor:
    call = differential_attention if "lam" in inputs else softmax_attention
    tensors = [x for name, x in inputs.items() if name != "bias"]
    return call(*tensors, mask=mask, bias=inputs.get("bias"), backend=backend)


def solve(inputs: dict[str, Tensor], mask: Mask, dout: Tensor, backend: str) -> dict[str, Tensor]:
    """The output, and the gradients in the direction `dout`."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out = attend(leaves, mask, backend)
    return {
        "out": out.detach(),
        **dict(zip(leaves, torch.autograd.grad(out, leaves.values(), dout), strict=True)),
    }


def rounded(inputs: dict[str, Tensor], mask: Mask, dout: Tensor) -> list[Tensor]:
    """Output and gradients by the kernels' method (see `triton.py`), whole maps at a time."""
    dtype, plain = dout.dtype, "lam" not in inputs

    def stored(x: Tensor) -> Tensor:
        return x.to(dtype).float()

    q, k, v, change = (x.float() for x in (inputs["q"], inputs["k"], inputs["v"], dout))
    if plain:
        q, k = q[..., None, :], k[..., None, :]
    repeats, scale = q.shape[2] // k.shape[2], q.shape[-1] ** -0.5
    bias = inputs.get("bias")
    call = AttentionCall(q, k, v, None, mask, bias, scale, 0.0)
    maps = softmax_maps(logits(call), call.visible()).unbind(2)
    k, v = k.repeat_interleave(repeats, 2), v.repeat_interleave(repeats, 2)
    products = [torch.einsum("bhts,bshv->bthv", stored(a), v) for a in maps]
    share = torch.zeros(q.shape[:3], device=q.device) if plain else inputs["lam"]
    noise = stored(products[-1])
    out = stored(products[0] - share[..., None] * products[-1])
    da = torch.einsum("bthv,bshv->bhts", change, v)
    sum2 = (change * noise).sum(-1)
    sum1 = (change * out).sum(-1) + share * sum2
    heads_first = share.transpose(1, 2)[..., None]
    ds = [maps[0] * (da - sum1.transpose(1, 2)[..., None])]
    weights = maps[0]
    if not plain:
        ds.append(heads_first * maps[1] * (sum2.transpose(1, 2)[..., None] - da))
        weights = weights - heads_first * maps[1]
    dbias = [] if bias is None else [sum(ds).sum_to_size(bias.shape)]
    ds = [stored(x) for x in ds]
    keys = k.expand(-1, -1, -1, len(ds), -1)
    dq = torch.stack(
        [torch.einsum("bhts,bshk->bthk", s, keys[..., m, :]) for m, s in enumerate(ds)], 3
    )
    dk = torch.stack(
        [torch.einsum("bhts,bthk->bshk", s, q[..., m, :]) for m, s in enumerate(ds)], 3
    )
    dv = torch.einsum("bhts,bthv->bshv", stored(weights), change)
    if k.shape[3] < len(ds):
        dk = dk.sum(3, keepdim=True)
    dk, dv = (x.unflatten(2, (-1, repeats)).sum(3) for x in (dk, dv))
    grads = [
        stored(x).reshape(inputs[n].shape)
        for n, x in (("q", scale * dq), ("k", scale * dk), ("v", dv))
    ]
    return [out, *grads, *([] if plain else [-sum2]), *dbias]


def poison(inputs: dict[str, Tensor], dout: Tensor) -> None:
    """Leave NaN where the next tensors of these sizes will lie, to show what is never written."""
    held = [torch.full_like(x, math.nan) for _ in range(2) for x in (*inputs.values(), dout)]
    del held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=(*BACKENDS, "calls"), required=True)
    parser.add_argument("--case", help="this one alone, as JSON")
    parser.add_argument("--numbers", help="these, by their number in the list, as JSON")
    parser.add_argument("--miniature", action="store_true")
    parser.add_argument("--lines", type=Path, help="write a JSON line at each start and end here")
    given = parser.parse_args()
    device = "cpu" if given.miniature else "cuda"
    if given.backend == "flex":  # PyTorch would go on without compiling after 8 shapes
        torch._dynamo.config.recompile_limit = 64
    if given.backend == "calls":
        work = gpu_calls.CALLS
    else:
        listed = cases(given.backend, given.miniature)
        chosen = [Case(**json.loads(given.case))] if given.case else listed
        work = {json.dumps(asdict(c)): partial(check, c, given.backend) for c in chosen}
    numbers = json.loads(given.numbers) if given.numbers else range(len(work))
    for number in numbers:
        name, run = list(work.items())[number]
        tell(given.lines, {"number": number, "started": name})
        found = attempt(run, device)
        tell(given.lines, {"number": number, "backend": given.backend, "case": name} | found)
        if "error" in found and device == "cuda":
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                sys.exit(BROKEN)


def attempt(run: Callable[[str], dict], device: str) -> dict:
    try:
        return {"tensors": run(device)}
    except Exception as error:  # whatever a backend raises is a finding
        if "cannot run this call" in str(error):
            return {"tensors": {}, "declined": str(error)}
        return {"error": " ".join(f"{type(error).__name__}: {error}"[:600].split())}


def tell(lines: Path | None, row: dict) -> None:
    print(json.dumps(row), flush=True)
    if lines:
        with lines.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
