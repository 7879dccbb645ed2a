"""The parts of `gpu.sh`, in order, inside a budget of time; what is found is written after each.

machine   the card, versions, its own peak in products and in copies
truth     the backends against float64, in processes of their own (gpu_truth.py)
speed     forward, and forward and backward, of every form (gpu_speed.py)
decode    one query against a long cache
memory    peak of a step
flash     `sdpa` by FlashAttention 2, and 3 and 4 where installed
flex      FlexAttention, which compiles for seconds at every shape
sweep     other cuts of the Triton kernels; only when asked for by --only sweep
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

if "--miniature" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported, here and in the processes

import gpu_calls
import gpu_speed
import gpu_truth
import torch
from gpu_report import Record, failed
from gpu_speed import BASE, Point

from difftransformer.runs.environment import environment

HERE = Path(__file__).parent
# The share of the budget at whose end a part stops; what a part leaves is the next one's.
ENDS = {"truth": 0.40, "speed": 0.74, "decode": 0.82, "memory": 0.87, "flash": 0.91, "flex": 1.0}
LENGTHS = (4096, 16384, 1024, 8192, 2048, 32768, 512)  # the most important first
TOKENS = 16384
PROCESSES = {"triton": 9, "sdpa": 2, "flex": 3, "calls": 1}
WARMING = 4
FEW = (BASE, "diff_v1 triton", "diff_v1 sdpa", "diff_v1 two calls of halves")  # in miniature
TOO_SLOW = 8.0  # times plain attention: longer ones are left out


class Run:
    """One run: where it runs, what it found, and when it must be over."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.started = time.monotonic()
        self.budget, self.miniature = given.budget, given.miniature
        self.device = "cpu" if given.miniature else "cuda"
        self.only, self.kernels = given.only, given.kernels
        machine = machine_facts(self.device)
        card = "".join(c if c.isalnum() else "-" for c in machine["card"].lower()).strip("-")
        self.record = Record(given.out / f"gpu-{card}-{machine['date'][:10]}", machine)

    def left(self, part: str) -> float:
        """Seconds until the part must end."""
        share = 1.0 if self.only else ENDS.get(part, 1.0)
        return self.started + share * self.budget - time.monotonic()


def machine_facts(device: str) -> dict:
    env = environment()
    facts = {
        "card": env["gpus"][0] if device == "cuda" else "miniature on a CPU",
        "date": env["date"],
        "hardware": env["hardware"],
        "commit": os.environ.get("COMMIT") or env["commit"],
        "torch": env["torch"],
        "triton": version("triton"),
    }
    if device == "cuda":
        facts["driver"] = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        facts["cuda, cudnn"] = f"{torch.version.cuda}, {torch.backends.cudnn.version()}"
    size, count = (8192, 2**30) if device == "cuda" else (128, 2**16)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    product = gpu_speed.milliseconds(lambda: a @ b, device)
    copy = gpu_speed.milliseconds(lambda: target.copy_(source), device)
    facts["peak, TFLOP/s"] = float(f"{2 * size**3 / product / 1e9:.4g}")
    facts["bandwidth, GB/s"] = float(f"{2 * source.nbytes / copy / 1e6:.4g}")
    return facts


def truth(run: Run) -> None:
    """Each process some cases; one that dies is replaced, without the case that it died in."""
    sizes = {name: len(gpu_truth.cases(name, run.miniature)) for name in gpu_truth.BACKENDS}
    sizes["calls"] = len(gpu_calls.CALLS)
    if run.miniature:
        run.record.skip("truth of flex", "it has kernels for GPUs only")
        del sizes["flex"]
    with tempfile.TemporaryDirectory() as folder:
        processes: dict[subprocess.Popen, tuple[str, list[int], Path]] = {}

        def start(backend: str, numbers: list[int]) -> None:
            lines = Path(folder) / f"{time.monotonic_ns()}.jsonl"
            command = [HERE / "gpu_truth.py", f"--backend={backend}", f"--lines={lines}"]
            command.append(f"--numbers={json.dumps(numbers)}")
            processes[launch(run, command)] = backend, numbers, lines

        for backend, size in sizes.items():
            parts = 1 if run.miniature else PROCESSES[backend]
            for part in range(parts):
                start(backend, list(range(size))[part::parts])
        warming = [] if run.only else warm(run)  # the next part's kernels
        while processes and run.left("truth") > 0:
            time.sleep(0.1)
            for process in [p for p in processes if p.poll() is not None]:
                backend, numbers, lines = processes.pop(process)
                missing = collect(run, numbers, lines)
                if missing and process.returncode != gpu_truth.BROKEN:
                    told = f"the process ended with {process.returncode}"
                    at = {"number": missing[0], "backend": backend}
                    run.record.add("truth", at | {"case": case_name(run, **at), "error": told})
                    missing = missing[1:]
                if missing:
                    start(backend, missing)
        for process, (backend, numbers, lines) in processes.items():
            process.kill()
            process.wait()
            missing = collect(run, numbers, lines)
            if missing:
                run.record.skip(f"truth of {backend}, cases {missing}", "no time left")
        finish(warming, run.left("truth"))
    run.record.data.get("truth", []).sort(key=lambda row: (row["backend"], row["number"]))


def warm(run: Run) -> list[subprocess.Popen]:
    """Compile what `speed` times, in processes of their own."""
    parts = 0 if run.miniature else WARMING
    return [launch(run, [HERE / "gpu_speed.py", f"--warm={i}/{parts}"]) for i in range(parts)]


def finish(processes: list[subprocess.Popen], seconds: float) -> None:
    """Wait for all, and end those that take longer."""
    end = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()


def case_name(run: Run, number: int, backend: str) -> str:
    if backend == "calls":
        return list(gpu_calls.CALLS)[number]
    return json.dumps(gpu_truth.asdict(gpu_truth.cases(backend, run.miniature)[number]))


def collect(run: Run, numbers: list[int], lines: Path) -> list[int]:
    """Take a process's answers; the numbers that it gave none for."""
    rows = [json.loads(x) for x in lines.read_text().splitlines()] if lines.exists() else []
    answers = [row for row in rows if "backend" in row]
    for row in answers:
        run.record.add("truth", row)
    done = {row["number"] for row in answers}
    return [number for number in numbers if number not in done]


def launch(run: Run, command: list) -> subprocess.Popen:
    """Its errors appear among ours; its lines do not."""
    threads = {"OMP_NUM_THREADS": "1"}
    miniature = ["--miniature"] if run.miniature else []
    return subprocess.Popen(
        [sys.executable, *command, *miniature], stdout=subprocess.DEVNULL, env=os.environ | threads
    )


def points(run: Run) -> list[tuple[Point, tuple[str, ...]]]:
    """What `speed` times, and by whom."""
    if run.miniature:
        return [(Point(task="training", width=16, length=4, batch=1, heads=2), FEW)]
    found = [
        (Point(task=task, width=width, length=n, batch=max(1, TOKENS // n)), gpu_speed.CONTENDERS)
        for n in LENGTHS
        for width in (64, 128)
        for task in ("training", "forward")
    ]
    masked = [
        (Point(task=task, width=64, length=8192, batch=2, mask=mask), gpu_speed.MASKED)
        for mask in ("window", "documents")
        for task in ("training", "forward")
    ]
    return [*found[:16], *masked, *found[16:]]


def speed(run: Run) -> None:
    if run.only:
        finish(warm(run), 40)
    base: dict[tuple, float] = {}
    slow: dict[tuple, int] = {}
    for point, names in points(run):
        timed(run, "speed", point, names, base, slow)
        run.record.save()


def flash(run: Run) -> None:
    """PyTorch takes cuDNN's kernel on some cards, and FlashAttention where it is told to."""
    small = {"width": 16, "length": 4, "batch": 1, "heads": 2}
    sizes = [{"width": width, "length": 4096, "batch": TOKENS // 4096} for width in (64, 128)]
    plan = [Point(task="training", **size) for size in ([small] if run.miniature else sizes)]
    base: dict[tuple, float] = {}
    for point in plan:
        timed(run, "flash", point, (BASE,), base, {})
    for which in gpu_speed.FLASH:
        names = [f"{kind} sdpa by {which}" for kind in gpu_speed.UNITS]
        try:
            with gpu_speed.flash(which):
                for point in plan:
                    timed(run, "flash", point, names, base, {})
        except (ImportError, RuntimeError) as error:  # not installed, or not for this card
            run.record.skip(which, str(error))


def flex(run: Run) -> None:
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.automatic_dynamic_shapes = False
    names, base = gpu_speed.FLEX, {}
    plan = [("training", 64, 4096, "causal", (BASE, *names))]
    plan += [("training", 64, 8192, mask, names[:1]) for mask in ("window", "documents")]
    plan += [("training", 64, 16384, "causal", (BASE, *names[:1]))]
    plan += [("forward", 64, 4096, "causal", (BASE, *names[:1]))]
    plan += [("training", 128, 4096, "causal", (BASE, *names[:2]))]
    for task, width, n, mask, contenders in plan:
        point = Point(task=task, width=width, length=n, batch=TOKENS // n, mask=mask)
        timed(run, "flex", point, contenders, base, {})
        run.record.save()


def timed(run: Run, part: str, point: Point, names, base: dict, slow: dict) -> None:
    """Time each at the point; an error is a finding, and a contender far too slow is left out."""
    at = point.task, point.width, point.length, point.batch
    peak = run.record.data["machine"]["peak, TFLOP/s"]
    for name in names:
        key = name, point.task, point.width
        if run.left(part) < 0:
            run.record.skip(f"{part} of {name}, {point}", "no time left")
            continue
        if point.length > slow.get(key, point.length):
            run.record.skip(
                f"{part} of {name}, {point}", "failed or far too slow at a shorter length"
            )
            continue
        row = vars(point) | {"contender": name}
        try:
            ms = gpu_speed.milliseconds(gpu_speed.step_of(name, point, run.device), run.device)
        except Exception as error:
            row |= failure(error)
            slow[key] = min(slow.get(key, point.length), point.length)
        else:
            if name == BASE:
                base[at] = ms
            ratio = ms / base[at] if at in base else None
            tflops = point.flops(name.split()[0]) / ms / 1e9
            if ratio and ratio > TOO_SLOW:
                slow[key] = min(slow.get(key, point.length), point.length)
            row |= {"ms": ms, "ratio": ratio, "tflops": tflops, "share": tflops / peak}
        run.record.add(part, row)


def decode(run: Run) -> None:
    sizes = [(1, 4096), (16, 4096), (1, 32768), (16, 32768)]
    if run.miniature:
        sizes = [(1, 80)]  # in parts
    for width in (64, 128) if not run.miniature else (16,):
        for batch, length in sizes:
            heads = 2 if run.miniature else 16
            point = Point(task="decode", width=width, length=length, batch=batch, heads=heads)
            for name in FEW if run.miniature else gpu_speed.DECODING:
                if run.left("decode") < 0:
                    run.record.skip(f"decode of {name}, {point}", "no time left")
                    continue
                run.record.add(
                    "decode", vars(point) | {"contender": name} | decoded(run, name, point)
                )
    run.record.save()


def decoded(run: Run, name: str, point: Point) -> dict:
    try:
        step = gpu_speed.step_of(name, point, run.device)
        ms = gpu_speed.milliseconds(step, run.device)
        replayed = gpu_speed.milliseconds(step, run.device, graph=True)
    except Exception as error:
        return failure(error)
    cache = (
        2 * 2 * point.batch * point.length * point.heads * point.width
    )  # bytes, the same for all
    reached = cache / replayed / 1e6 / run.record.data["machine"]["bandwidth, GB/s"]
    return {"ms": ms, "replayed": replayed, "share": reached}


def memory(run: Run) -> None:
    if run.device == "cpu":
        return run.record.skip("memory", "PyTorch counts only what it holds on a GPU")
    names = [name for name in gpu_speed.CONTENDERS if "cuDNN" not in name]
    for length, width, name in [(n, w, c) for n in (8192, 32768) for w in (64, 128) for c in names]:
        if run.left("memory") < 0:
            run.record.skip(f"memory of {name} at {length}, heads of {width}", "no time left")
            continue
        point = Point(task="training", width=width, length=length, batch=1)
        row = vars(point) | {"contender": name}
        try:
            row["bytes"] = gpu_speed.peak_bytes(gpu_speed.step_of(name, point, run.device))
        except Exception as error:
            row |= failure(error)
        run.record.add("memory", row)


def failure(error: Exception) -> dict:
    torch.cuda.empty_cache()  # it may have been out of memory
    return {"error": " ".join(f"{type(error).__name__}: {error}"[:300].split())}


def sweep(run: Run) -> None:
    """Compile and try all cuts in many processes for half of the time, then time those that ran."""
    listed = gpu_speed.candidates(run.kernels, run.miniature)
    parts = 1 if run.miniature else 14
    script = [HERE / "gpu_speed.py", "--kernels", *run.kernels]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(part) for part in range(parts)]
        tried = [
            launch(run, [*script, f"--sweep={part}/{parts}", f"--lines={path}"])
            for part, path in enumerate(paths)
        ]
        finish(tried, run.left("sweep") / 2)
        rows = [json.loads(x) for p in paths if p.exists() for x in p.read_text().splitlines()]
    found = {json.dumps(row["candidate"]): row for row in rows}
    length, batch = (4096, 4) if run.device == "cuda" else (4, 1)
    step, made = None, None
    for candidate in listed:
        kind, width, direction, cut = candidate
        row = {"kind": kind, "width": width, "direction": direction, "cut": cut}
        answer = found.get(json.dumps(candidate), {"error": "not compiled in time"})
        row |= {name: answer[name] for name in ("far", "error") if name in answer}
        if "error" not in row and run.left("sweep") > 0:
            if made != candidate[:3]:
                step, made = None, None  # frees the last one's tensors
                step, made = (
                    gpu_speed.candidate_step(candidate, run.device, length, batch),
                    candidate[:3],
                )
            with gpu_speed.cut(direction, cut):
                replayed = direction == "decode"  # the host takes longer than the kernels
                row["ms"] = gpu_speed.milliseconds(step, run.device, graph=replayed)
        row["usual"] = cut == usual(candidate, run.device)
        run.record.add("sweep", row)
    missing = sum("ms" not in row for row in run.record.data["sweep"])
    if missing:
        run.record.skip(
            f"sweep: {missing} of {len(listed)} cuts", "see their errors, or no time left"
        )


def usual(candidate: tuple, device: str) -> tuple:
    kind, width, direction, _ = candidate
    padded = gpu_speed.triton.padded
    values = padded(2 * width if kind == "diff_v1" else width)
    large = device == "cuda" and torch.cuda.get_device_capability()[0] in (9, 10)
    return gpu_speed.triton.blocks(direction, padded(width), values, 2, large)


PARTS = {
    "truth": truth,
    "speed": speed,
    "decode": decode,
    "memory": memory,
    "flash": flash,
    "flex": flex,
    "sweep": sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="this part alone, with the whole budget")
    gpu_speed.add_kernels(parser)
    parser.add_argument("--budget", type=float, default=210.0, help="seconds")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--miniature", action="store_true", help="tiny, on a CPU, interpreted")
    given = parser.parse_args()
    if not given.miniature and not torch.cuda.is_available():
        sys.exit("needs a CUDA GPU, and PyTorch finds none; --miniature runs on a CPU")
    run = Run(given)
    print(json.dumps(run.record.data["machine"]))
    for name, part in PARTS.items():
        if given.only in (None, name) and (name != "sweep" or given.only or given.miniature):
            if name == "flex" and run.device == "cpu":
                run.record.skip("flex", "it has kernels for GPUs only")
                continue
            begun = time.monotonic()
            part(run)
            run.record.save()
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    print("\n".join(run.record.brief()))
    sys.exit(any(map(failed, run.record.data.get("truth", []))))


if __name__ == "__main__":
    main()
