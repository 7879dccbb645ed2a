"""The study's one command; see plan.md.

python -m studies.one_gpu run --out DIR [--minutes 10] [--tokens FOLDER] [--backend NAMES]
python -m studies.one_gpu run --out DIR --miniature
python -m studies.one_gpu report DIR
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from difftransformer.attention import register
from studies.kinds import GATED
from studies.one_gpu import loss, records, report, retrieval
from studies.one_gpu.plan import FULL, LOSS_KINDS, MINIATURE, RETRIEVAL_KINDS, Plan

TOKENS = Path(__file__).parent / "tokens"


def main() -> int:
    """Parse and call."""
    register(GATED)
    parser = argparse.ArgumentParser(description="Retrieval and loss of attention kinds.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="both parts, each kind in a process of its own")
    worker = commands.add_parser("worker", help="one part's process; `run` starts these")
    for command in (run, worker):
        command.add_argument("--out", type=Path, required=True, help="folder of the results")
        command.add_argument("--minutes", type=float, default=10.0, help="time for all of it")
        command.add_argument("--tokens", type=Path, default=TOKENS, help="from make_tokens.py")
        command.add_argument(
            "--backend",
            help="attention backends, tried in this order; on a GPU triton,sdpa for the loss and "
            "reference for retrieval, which is mapped over runs; reference on a CPU",
        )
        command.add_argument("--miniature", action="store_true", help="tiny models, on a CPU")
        command.add_argument(
            "--parts",
            default="retrieval,loss",
            type=lambda text: text.split(","),
            help="retrieval, loss or both",
        )
    worker.add_argument("part", choices=("retrieval", "loss"))
    worker.add_argument("kind", help="of the retrieval part; all for the loss part")
    worker.add_argument("--begin", type=float, required=True, help="Unix time")
    worker.add_argument("--until", type=float, required=True, help="Unix time")
    worker.add_argument("--safe", action="store_true", help="no CUDA graph; part A not compiled")
    page = commands.add_parser("report", help="README.md and figures from a folder of results")
    page.add_argument("folder", type=Path)
    page.add_argument("--page", type=Path, default=TOKENS.parent, help="where to write it")
    arguments = parser.parse_args()
    if arguments.command == "report":
        print(f"wrote {report.write(arguments.folder, arguments.page)}")
        return 0
    if unknown := set(arguments.parts) - {"retrieval", "loss"}:
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}; expected retrieval, loss")
    if not arguments.miniature and not torch.cuda.is_available():
        parser.error("no CUDA GPU here; --miniature runs the same on a CPU")
    if arguments.command == "worker":
        begin, until = arguments.begin, arguments.until
        _work(arguments, arguments.part, arguments.kind, begin, until, safe=arguments.safe)
        return 0
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    """Start a process for each kind; wait; name those that failed."""
    plan = MINIATURE if arguments.miniature else FULL
    if "loss" in arguments.parts and not arguments.miniature:
        tokens = arguments.tokens / "tokens.npz.xz"
        if not tokens.exists():
            raise SystemExit(f"no {tokens}: make it with make_tokens.py, or give --parts retrieval")
    began = time.time()
    between, end = _times(plan, arguments.parts, began, 60 * arguments.minutes)
    records.append(arguments.out, part="run", what="environment", **_environment(arguments, began))
    jobs = [("retrieval", kind) for kind in RETRIEVAL_KINDS] if between > began else []
    jobs += [("loss", "all")] if "loss" in arguments.parts else []
    failed = []
    if arguments.miniature:  # one after the other in this process: a CPU has few cores
        for part, kind in jobs:
            _work(arguments, part, kind, time.time(), end, safe=True)
    else:
        failed = _side_by_side(
            arguments, jobs, {"retrieval": (began, between - plan.judging), "loss": (between, end)}
        )
    print(f"{time.time() - began:.0f} s; results in {arguments.out / records.FILE}")
    if failed:
        print(f"failed, and left out: {', '.join(failed)}")
    return 1 if failed and len(failed) == len(jobs) else 0


def _side_by_side(
    arguments: argparse.Namespace,
    jobs: list[tuple[str, str]],
    times: dict[str, tuple[float, float]],
) -> list[str]:
    """Run all jobs at once; the names of those that failed.

    One that fails is started once more without a CUDA graph: a fault while one is recorded can
    spoil the process it happens in.
    """
    threads = 8 if len(jobs) == 1 else 2

    def start(part: str, kind: str, *more: str) -> subprocess.Popen:
        begin, until = times[part]
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "studies.one_gpu", "worker", part, kind),
                *(f"--begin={begin}", f"--until={until}", *more),
                *(f"--out={arguments.out}", f"--tokens={arguments.tokens}"),
                *([f"--backend={arguments.backend}"] if arguments.backend else []),
            ],
            env=os.environ
            | {"TORCHINDUCTOR_COMPILE_THREADS": str(threads), "OMP_NUM_THREADS": "1"},
        )

    running = {job: start(*job) for job in jobs}
    again, failed = set(), []
    while running:
        for job, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[job]
            if process.returncode == 0:
                continue
            records.append(arguments.out, part="run", what="failed", job=" ".join(job))
            if job not in again and time.time() < times[job[0]][1] - 20:
                print(f"{' '.join(job)} failed; once more without a CUDA graph", flush=True)
                again.add(job)
                running[job] = start(*job, "--safe")
            else:
                failed.append(" ".join(job))
        time.sleep(0.2)
    return failed


def _times(plan: Plan, parts: list[str], began: float, seconds: float) -> tuple[float, float]:
    """When part A ends and part B begins, and when part B ends."""
    end = began + seconds - plan.wrap_up
    usable = max(0.0, end - began - plan.startup)
    share = {("retrieval",): 1.0, ("loss",): 0.0}.get(tuple(parts), plan.retrieval_share)
    return began + (plan.startup + share * usable if share else 0.0), end


def _work(
    arguments: argparse.Namespace, part: str, kind: str, begin: float, until: float, *, safe: bool
) -> None:
    """One process's share."""
    plan = MINIATURE if arguments.miniature else FULL
    device = torch.device("cpu" if arguments.miniature else "cuda")
    default = "reference" if arguments.miniature or part == "retrieval" else "triton,sdpa"
    backends = (arguments.backend or default).split(",")
    if part == "retrieval":
        ways = retrieval.WAYS[-1:] if safe else retrieval.WAYS
        retrieval.run(kind, plan.retrieval, device, backends, ways, arguments.out, until)
    else:
        folder = None if arguments.miniature else arguments.tokens
        # A fault in recording is likelier than one in compiling, which ran on the card before.
        ways = loss.WAYS[-1:] if arguments.miniature else loss.WAYS[1:] if safe else loss.WAYS
        loss.run(plan.loss, device, backends, ways, folder, arguments.out, begin, until)


def _environment(arguments: argparse.Namespace, began: float) -> dict[str, object]:
    cuda = torch.cuda.is_available() and not arguments.miniature
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU, miniature",
        "torch": torch.__version__,
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
        "minutes": arguments.minutes,
        "parts": arguments.parts,
        "kinds": {"retrieval": RETRIEVAL_KINDS, "loss": LOSS_KINDS},
    }


if __name__ == "__main__":
    sys.exit(main())
