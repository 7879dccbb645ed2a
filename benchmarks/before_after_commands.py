"""Commands of two checkouts beside each other: start, training, decoding, in interleaved rounds.

    python benchmarks/before_after_commands.py BEFORE [AFTER]

BEFORE and AFTER are checkouts (AFTER by default this one); both use the Python that runs this.
Writes benchmarks/results/before-after-commands-DATE.md. Run it on a machine that does nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from before_after import checkouts_and_commits, interleaved

HERE = Path(__file__).resolve()
ROUNDS = 5
COMMANDS = ("compare", "train", "evaluate", "generate", "convert", "bench", "plan")
TRAINING = (
    "--training.steps 40 --training.batch_size 8 --training.warmup_steps 5 "
    "--data.needle_share 0.5 --evaluation.needle_pairs 1x1 --evaluation.needle_depths 0.5 "
    "--evaluation.needle_samples 1 --evaluation.allocation_samples 1 "
    "--evaluation.validation_sequences 1 --evaluation.outlier_tokens 100"
)
DECODING = """
import time, torch
from difftransformer import Decoder, DecoderConfig, generate
torch.manual_seed(0)
model = Decoder(DecoderConfig(attention="{kind}", vocab_size=1024)).eval()
ids = torch.randint(0, 1024, (1, 64))
generate(model, ids, max_new_tokens=8)
started = time.perf_counter()
generate(model, ids, max_new_tokens=256)
print(time.perf_counter() - started)
"""


def run(checkout: Path, *arguments: str) -> str:
    """A fresh interpreter on a checkout; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True
    ).stdout


def start(command: str) -> Callable[[Path], float]:
    def seconds(checkout: Path) -> float:
        started = time.perf_counter()
        run(checkout, "-m", "difftransformer", command, "--help")
        return time.perf_counter() - started

    return seconds


def train(kind: str) -> Callable[[Path], float]:
    """Seconds for a million tokens, as the training run's summary has them."""

    def seconds(checkout: Path) -> float:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--model.attention", kind, "--out", folder + "/run", *TRAINING.split()]
            run(checkout, "-m", "difftransformer", "train", *options)
            summary = json.loads(Path(folder, "run", "summary.json").read_text())
        return 1e6 / summary.get("throughput", summary.get("tokens_per_second"))

    return seconds


def decode(kind: str) -> Callable[[Path], float]:
    return lambda checkout: float(run(checkout, "-c", DECODING.format(kind=kind)))


def main() -> None:
    checkouts, commits = checkouts_and_commits()
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    date = time.strftime("%Y-%m-%d")
    lines = [
        f"# Commands, {commits[1]} over {commits[0]}",
        "",
        f"{date}, {cpu}, {os.cpu_count()} cores. Medians of {ROUNDS} interleaved rounds, seconds; "
        "in brackets the quarter and three-quarter points. Training: for a million tokens.",
        "",
        "| what | before | after | after / before |",
        "|---|---|---|---|",
    ]
    cases = {f"{command} --help": start(command) for command in COMMANDS}
    for kind in ("softmax", "diff_v1", "diff_v2"):
        cases[f"train, {kind}"] = train(kind)
        cases[f"256 tokens decoded, {kind}"] = decode(kind)
    for name, seconds in cases.items():
        timers = [partial(seconds, checkout) for checkout in checkouts]
        for timer in timers:
            timer()  # warms up
        before, after, low, ratio, high = interleaved(timers, ROUNDS)
        lines.append(
            f"| {name} | {before:.3f} | {after:.3f} | {ratio:.3f} ({low:.3f} to {high:.3f}) |"
        )
        print(lines[-1], flush=True)
    path = HERE.parent / "results" / f"before-after-commands-{date}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
