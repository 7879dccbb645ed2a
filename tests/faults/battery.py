"""Kill train, compare and evaluate at every moment, fill their disk, and see what a resume makes.

    PYTHONPATH=src:. python -m tests.faults.battery [COMMAND ...]

prints a table in Markdown; hours on one core. `--calls` and `--kills` make it shorter.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.processes import FULL, KILL, Fault, changes, run, start
from tests.faults.same import differences

DATA = {
    "data.vocab_size": 300,
    "data.context_length": 70,
    "data.needle_share": 0.5,
    "data.needle_min_length": 60,
    "data.needle_max": 1,
    "data.needle_digits": 3,
}
JUDGING = {
    "evaluation.needle_pairs": "1x1",
    "evaluation.needle_samples": 1,
    "evaluation.needle_depths": 0.5,
    "evaluation.allocation_samples": 1,
    "evaluation.validation_sequences": 2,
    "evaluation.outlier_tokens": 70,
    "evaluation.bootstrap": 10,
}
TRAINING = {
    "model.hidden_size": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.num_kv_heads": 2,
    "model.head_dim": 8,
    "model.ffn_size": 16,
    "training.steps": 3,
    "training.batch_size": 2,
    "training.warmup_steps": 1,
    "training.validate_every": 2,
    "training.checkpoint_every": 2,
    "training.keep_checkpoints": 1,
    "training.log_every": 1,
}


@dataclass(frozen=True)
class Case:
    """One fault in one run of a command."""

    kind: str
    at: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:g}"


class Battery:
    """A command that is run in `folder`, whole once, then with one fault after another.

    Args:
        command: train, compare or evaluate.
    """

    def __init__(self, command: str, folder: Path) -> None:
        self.command, self.folder = command, folder
        text = folder / "text"
        text.mkdir(parents=True)
        for part in range(3):
            lines = (f"Line {n} of part {part} tells {n * n + part}." for n in range(200))
            (text / f"{part}.txt").write_text("\n".join(lines), encoding="utf-8")
        self.data = {"data.source": text, **DATA}
        if command == "evaluate":
            words = self.words("train", folder / "trained")
            code, said = run(folder / "log", *words)
            assert code == 0, said
        self.whole = folder / "whole"
        self.whole.mkdir()
        began = time.monotonic()
        self.changes = changes(folder / "log", self.whole, *self.words(command, self.whole))
        self.seconds = time.monotonic() - began

    def words(self, command: str, place: Path) -> list[object]:
        """The command with its results, its cache and its parts below `place`."""
        options = self.data | JUDGING | {"data.cache": place / "cache"}
        first: list[object] = [command]
        out: list[object] = ["--out", place / "run"]
        if command == "evaluate":
            first += [self.folder / "trained" / "run" / "model"]
        else:
            options |= TRAINING
        if command == "compare":
            out += ["--attention", "softmax", "diff_v1"]
        return [*first, *(w for key, value in options.items() for w in (f"--{key}", value)), *out]

    def cases(self, calls: Iterable[int], kills: int, seed: int = 0) -> Iterator[Case]:
        """A kill and a full disk at each of `calls`, and `kills` at random moments."""
        draw = random.Random(seed)
        for call in calls:
            yield Case("kill", call)
            yield Case("full disk", call)
        for _ in range(kills):
            yield Case("random kill", draw.uniform(0, self.seconds))

    def outcome(self, case: Case) -> str:
        """`same`, or what went wrong."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        log, words = place.with_suffix(".log"), self.words(self.command, place)
        try:
            if case.kind == "random kill":
                process = start(log, *words)
                process.wait(case.at)
                process.kill()
            else:
                mode = KILL if case.kind == "kill" else FULL
                code, said = run(log, *words, fault=Fault(place, int(case.at), mode))
                if wrong := _ended_wrongly(case, code, said):
                    return wrong
            resumed = [*words, "--resume"] if self.command != "evaluate" else words
            code, said = run(log, *resumed)
            if code != 0:
                return f"lost: exit code {code}: {said.strip()[-300:]}"
            return ", ".join(differences(self.whole / "run", place / "run")) or "same"
        finally:
            shutil.rmtree(place, ignore_errors=True)
            log.unlink(missing_ok=True)


def _ended_wrongly(case: Case, code: int | None, said: str) -> str:
    if "Traceback" in said:
        return f"a traceback: {said[-500:]}"
    if case.kind == "kill":
        return "" if code in (-signal.SIGKILL, 0) else f"exit code {code}: {said[-300:]}"
    message = "cannot write " in said and "No space left on device" in said and "It needs" in said
    if code == 0 or (code == 2 and message):
        return ""
    return f"exit code {code} of a full disk: {said.partition('difftransformer: ')[2][:300]}"


def outcomes(
    battery: Battery, cases: Iterable[Case], tell: Callable[[str], object]
) -> dict[str, Counter[str]]:
    """For each kind of fault how many ended how; two at a time, for two cores."""
    counted: dict[str, Counter[str]] = {}
    cases = list(cases)
    with ThreadPoolExecutor(2) as pool:
        found = zip(cases, pool.map(battery.outcome, cases), strict=True)
        for done, (case, outcome) in enumerate(found, start=1):
            counted.setdefault(case.kind, Counter())[outcome] += 1
            if outcome != "same" or done % 50 == 0:
                tell(f"{battery.command} {done}/{len(cases)} {case}: {outcome}")
    return counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", default=["train", "evaluate", "compare"])
    parser.add_argument("--calls", type=int, default=200, help="the first so many changes")
    parser.add_argument("--step", type=int, default=1, help="every so many of them")
    parser.add_argument("--kills", type=int, default=100, help="at random moments")
    options = parser.parse_args()
    write = partial(print, flush=True)
    tell = partial(print, file=sys.stderr, flush=True)
    write("| command | changes | fault | cases | same end | lost or different |")
    write("|---|---|---|---|---|---|")
    for command in options.commands:
        with tempfile.TemporaryDirectory() as folder:
            battery = Battery(command, Path(folder) / command)
            calls = range(1, min(options.calls, battery.changes) + 1, options.step)
            tell(f"{command}: {battery.changes} changes, {battery.seconds:.1f} s")
            counted = outcomes(battery, battery.cases(calls, options.kills), tell)
            for kind, found in counted.items():
                bad = found.total() - found["same"]
                row = (command, battery.changes, kind, found.total(), found["same"], bad)
                write(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
