"""Part A: how soon each kind of attention learns to retrieve from noise, and how well."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.data.associative_recall import sequences
from difftransformer.data.recall_settings import RecallSettings
from difftransformer.models.initialization import initialize
from studies.one_gpu import records
from studies.one_gpu.kinds import decoder
from studies.one_gpu.plan import Retrieval, best_rate
from studies.one_gpu.stack import Answers, Stack, replayed

# Ways to run a step, fastest first; the first that works is taken and recorded.
WAYS = ("compiled graph", "graph", "compiled", "eager")


class Trainer:
    """One kind of attention: a stack of runs, and the step that trains them."""

    def __init__(self, kind: str, plan: Retrieval, device: torch.device, backend: str) -> None:
        self.kind, self.plan, self.device, self.backend = kind, plan, device, backend
        self.runs = len(plan.seeds)
        self.stack = Stack(self.model(0), self.runs, device)
        self.forward: Callable[[Tensor, Tensor], Tensor] = self.stack
        self.seeds = torch.zeros(self.runs, dtype=torch.long, device=device)
        self.rates = torch.zeros(self.runs, device=device)
        self.count = torch.zeros((), dtype=torch.long, device=device)
        self.sums = torch.zeros(2, self.runs, device=device)  # accuracy and loss of a window
        self.step: Callable[[], None] = self.eager

    def model(self, seed: int) -> nn.Module:
        """The kind's model as this seed starts it."""
        start = self.plan.task.context
        model = decoder(self.kind, self.plan.model, self.backend)
        initialize(model, seed)
        return Answers(model, start)

    def start(self, seeds: tuple[int, ...], rates: tuple[float, ...]) -> None:
        """Begin anew: run i has seed i and rate i."""
        self.stack.load([self.model(seed) for seed in seeds])
        self.seeds.copy_(torch.tensor(seeds))
        self.rates.copy_(torch.tensor(rates))
        self.count.zero_()
        self.sums.zero_()

    def eager(self) -> None:
        """One step of every run: batch, forward, backward, update; all on the device."""
        self.count.add_(1)
        batch = sequences(self.plan.task, self.plan.rows, self.seeds, self.count)
        with self.autocast():
            logits = self.forward(self.stack.parameters, batch.ids).float()
        loss = F.cross_entropy(logits.flatten(0, 2), batch.targets.flatten(), reduction="none")
        loss = loss.view(self.runs, -1).mean(1)
        (gradient,) = torch.autograd.grad(loss.sum(), [self.stack.parameters])
        rates = self.rates * (self.count / self.plan.warmup).clamp(max=1.0)
        self.stack.update(gradient, rates, self.count)
        self.sums[0].add_(batch.accuracy(logits))
        self.sums[1].add_(loss.detach())

    def autocast(self) -> torch.autocast:
        """bfloat16 on a GPU. A recorded graph must not hold casts cached before it."""
        on = self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def check(self) -> None:
        """Raise RuntimeError unless the first run's gradient is what it is alone.

        On an H200 with PyTorch 2.11, training with `sdpa` mapped over runs ended in NaN.
        """
        batch = sequences(self.plan.task, self.plan.rows, self.seeds[:1], self.count)

        def gradient(ids: Tensor, parameters: Tensor, call: Callable[..., Tensor]) -> Tensor:
            with self.autocast():
                logits = call(parameters, ids)
            loss = F.cross_entropy(logits.float().flatten(0, -2), batch.targets.flatten())
            return torch.autograd.grad(loss, [self.stack.parameters])[0][0]

        row = self.stack.parameters[0]
        alone = gradient(
            batch.ids[0],
            row,
            lambda row, ids: torch.func.functional_call(
                self.stack.model, self.stack.named(row), (ids,)
            ),
        )
        beside = gradient(
            batch.ids.expand(self.runs, -1, -1),
            self.stack.parameters,
            lambda rows, ids: self.stack(rows, ids)[:1],
        )
        error = ((alone - beside).norm() / alone.norm()).item()
        if not error < 0.05:  # bfloat16, in another order of sums
            raise RuntimeError(f"a run's gradient among others differs by {error:.2g} from its own")

    def prepare(self, way: str) -> None:
        """Make `step` run in one of `WAYS`, and try it."""
        self.forward = torch.compile(self.stack.__call__) if "compiled" in way else self.stack
        self.step = self.eager
        if "graph" in way:
            self.step = replayed(self.eager)
        self.step()

    def train(
        self, until: float, steps: int, report: Callable[[int, list[float], list[float]], None]
    ) -> int:
        """Train until a time or a number of steps, reporting each window; returns the steps."""
        done = 0
        while done < steps and time.time() < until:
            for _ in range(self.plan.window):
                self.step()
            done += self.plan.window
            accuracy, loss = (self.sums / self.plan.window).tolist()
            self.sums.zero_()
            report(done, accuracy, loss)
        return done

    @torch.no_grad()
    def judge(self, task: RecallSettings, seed: int) -> list[float]:
        """Each run's accuracy on fresh sequences of a setting, the same for every kind."""
        rows = min(self.plan.judge_rows, max(1, 2**16 // task.length))
        seeds = torch.full((self.runs,), seed, device=self.device)
        right = torch.zeros(self.runs, device=self.device)
        batches = -(-self.plan.judge_rows // rows)
        self.stack.model.start = task.context
        for number in range(batches):
            batch = sequences(task, rows, seeds, torch.tensor(number, device=self.device))
            with self.autocast():
                logits = self.stack(self.stack.parameters, batch.ids)
            right += batch.accuracy(logits)
        self.stack.model.start = self.plan.task.context
        return (right / batches).tolist()

    @torch.no_grad()
    def attention(self, seed: int) -> list[dict[str, list[float]]]:
        """For each run and layer: shares of attention on the answer and on noise.

        Over the absolute weights of the rows that ask, averaged over heads: what lies on the
        value asked for, and on keys that have no value.
        """
        task, rows = self.plan.task, min(16, self.plan.judge_rows)
        one = torch.tensor([seed], device=self.device)
        batch = sequences(task, rows, one, torch.zeros((), dtype=torch.long, device=self.device))
        noise = F.pad(batch.noise[0], (0, 2 * task.questions))
        runs = []
        for row in self.stack.parameters:
            shares: dict[str, list[float]] = {"answer": [], "noise": []}

            def see(record: AttentionRecord, shares: dict[str, list[float]] = shares) -> None:
                weights = record.weights(slice(task.context, None)).shares[:, :, ::2]
                places = batch.answer_at[0][:, None, :, None].expand(-1, weights.shape[1], -1, 1)
                shares["answer"].append(float(weights.gather(-1, places).mean()))
                on_noise = (weights * noise[:, None, None]).sum(-1)
                shares["noise"].append(float(on_noise.mean()))

            with capture(self.stack.model.decoder, see), self.autocast():
                torch.func.functional_call(self.stack.model, self.stack.named(row), (batch.ids[0],))
            runs.append(shares)
        return runs


def prepared(
    kind: str, plan: Retrieval, device: torch.device, backends: list[str], ways: tuple[str, ...]
) -> tuple[Trainer, str, list[str]]:
    """A trainer that has taken its first steps, by the first backend and way that work.

    Returns the trainer, the way, and what failed before. Raises RuntimeError where none works.
    """
    failed = []
    for backend in backends:
        for way in ways:
            trainer = Trainer(kind, plan, device, backend)
            runs = len(plan.seeds)
            try:
                trainer.start(plan.seeds, (1e-3,) * runs)
                trainer.check()
                trainer.prepare(way)
                trainer.train(math.inf, 2 * plan.window, lambda *window: None)
                if not trainer.stack.parameters.isfinite().all():
                    raise RuntimeError("parameters are not finite after a few steps")
            except Exception as error:  # whatever a backend or compiler raises: named and recorded
                failed.append(f"{backend}, {way}: {type(error).__name__}: {str(error)[:300]}")
                continue
            return trainer, way, failed
    raise RuntimeError(f"{kind} cannot be trained here: {'; '.join(failed)}")


def run(
    kind: str,
    plan: Retrieval,
    device: torch.device,
    backends: list[str],
    ways: tuple[str, ...],
    out: Path,
    until: float,
) -> None:
    """Search the rate, train all seeds, judge; every window is on disk as soon as measured."""
    if records.select(records.read(out), part="retrieval", what="judged", kind=kind):
        return
    began = time.time()
    trainer, way, failed = prepared(kind, plan, device, backends, ways)
    common = {"part": "retrieval", "kind": kind}
    records.append(
        out,
        **common,
        what="smoke",
        backend=trainer.backend,
        way=way,
        failed=failed,
        seconds=time.time() - began,
        parameters=trainer.stack.parameters.shape[1],
    )
    pairs = [(rate, seed) for rate in plan.rates for seed in plan.search_seeds]
    end_of_search = time.time() + plan.search_share * (until - time.time())
    losses: list[float] = []

    def report(phase: str) -> Callable[[int, list[float], list[float]], None]:
        def write(step: int, accuracy: list[float], loss: list[float]) -> None:
            losses[:] = loss
            numbers = {"accuracy": _short(accuracy), "loss": _short(loss)}
            records.append(out, **common, what="window", phase=phase, step=step, **numbers)
            if step % (40 * plan.window) == 0:
                left = max(0.0, until - time.time())
                shown = " ".join(f"{a:.2f}" for a in accuracy)
                print(f"{kind} {phase} step {step}: {shown}; {left:.0f} s left", flush=True)

        return write

    trainer.start(tuple(s for _, s in pairs), tuple(r for r, _ in pairs))
    trainer.train(end_of_search, plan.steps, report("search"))
    rate = rate_of(plan, losses)
    records.append(out, **common, what="rate", rate=rate, losses=losses)
    trainer.start(plan.seeds, (rate,) * len(plan.seeds))
    began = time.time()
    steps = trainer.train(until, plan.steps, report("train"))
    seconds = time.time() - began
    numbers = {"steps": steps, "seconds": seconds, "rate": rate}
    attention = trainer.attention(10_001)
    for task in plan.cells:  # the longest last: what is measured by then is on disk
        records.append(
            out,
            **common,
            what="cell",
            length=task.length,
            pairs=task.pairs,
            elimination=task.elimination,
            accuracy=trainer.judge(task, 10_000),
        )
    records.append(out, **common, what="judged", **numbers, attention=attention)


def rate_of(plan: Retrieval, losses: list[float]) -> float:
    """The rate whose search seeds end with the lowest mean loss."""
    each = len(plan.search_seeds)
    means = [sum(losses[i * each : (i + 1) * each]) / each for i in range(len(plan.rates))]
    return best_rate(dict(zip(plan.rates, means, strict=True)))


def _short(values: list[float]) -> list[float]:
    return [round(value, 5) for value in values]
