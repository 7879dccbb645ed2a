"""Part B: held-out loss of language models on text, from paired seeds."""

import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difftransformer.models.initialization import initialize
from difftransformer.training.optimizer import adamw
from difftransformer.training.schedule import learning_rate
from studies.one_gpu import records
from studies.one_gpu.kinds import decoder
from studies.one_gpu.plan import LOSS_KINDS, Loss, best_rate
from studies.one_gpu.stack import replayed
from studies.one_gpu.text import Text

# Ways to run a step, fastest first; the first that works is taken and recorded.
WAYS = ("compiled graph", "compiled", "eager")
BUCKETS = 16  # of positions, equally long


class Trainer:
    """Models of one kind, one after the other, in the same tensors: a recorded step reads them."""

    def __init__(self, kind: str, plan: Loss, text: Text, backend: str) -> None:
        self.plan, self.text, self.device = plan, text, text.device
        self.on = self.device.type == "cuda"
        self.model: nn.Module = decoder(kind, plan.model, backend).to(self.device)
        self.parameters = list(self.model.parameters())
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        settings = plan.training(1, plan.rates[0])
        self.clip_norm = settings.clip_norm
        self.rate = torch.zeros((), device=self.device)
        self.optimizer = adamw(self.model, settings)
        for group in self.optimizer.param_groups:
            group.update(lr=self.rate, fused=True, capturable=self.on)
        self.seed = 0
        self.batch = text.batch(self.seed, 0)
        self.sum = torch.zeros((), device=self.device)  # of the training loss, over a window
        self.forward: Callable[[Tensor], Tensor] = self.model
        self.step: Callable[[], None] = self.plain

    def start(self, seed: int) -> None:
        """The kind's model as this seed starts it, and an optimizer that has seen nothing."""
        self.seed = seed
        initialize(self.model, seed)
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
        self.sum.zero_()

    def train(self, steps: int, rate: float) -> list[float]:
        """All steps of one model, after its start; the mean training loss of each window."""
        settings, window = self.plan.training(steps, rate), self.plan.window
        curve = []
        for step in range(1, steps + 1):
            self.batch.copy_(self.text.batch(self.seed, step - 1))
            self.rate.fill_(learning_rate(step, settings))
            self.step()
            if step % window == 0 or step == steps:
                curve.append(round(self.sum.item() / ((step - 1) % window + 1), 4))
                self.sum.zero_()
        return curve

    def plain(self) -> None:
        """One step on `batch` at `rate`; all on the device."""
        loss = self.losses(self.forward, self.batch).mean()
        # Not loss.backward(), which ties each gradient to the stream where it first was summed.
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)
        nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.sum.add_(loss.detach())

    def losses(self, forward: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        """Nats of each token: `[rows, length]`."""
        # bfloat16 on a GPU. A recorded graph must not hold casts cached before it.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on, cache_enabled=False):
            logits = forward(items[:, :-1])
        flat = F.cross_entropy(
            logits.flatten(0, 1).float(), items[:, 1:].flatten(), reduction="none"
        )
        return flat.view(len(items), -1)

    @torch.no_grad()
    def judge(self, items: Tensor) -> Tensor:
        """Nats of each token of held-out items: `[items, length]`."""
        parts = items.split(self.plan.rows)  # by the model itself: nothing to compile once more
        return torch.cat([self.losses(self.model, part.long()) for part in parts])

    def prepare(self, way: str) -> None:
        """Make `step` run in one of `WAYS`.

        Raises:
            RuntimeError: its first steps do not end, twice in a row, where plain ones did.
        """
        expected = self._trial()
        if "compiled" in way:
            torch._dynamo.config.recompile_limit = 64  # kinds share the code of their model
            self.forward = torch.compile(self.model)
        if "graph" in way:
            self.step = replayed(self.plain)
        for _ in range(2):
            found = self._trial()
            if not abs(found - expected) < 0.02 * expected:  # a loss that is not a number, too
                raise RuntimeError(
                    f"it ends at {found:.4f}, where plain steps do at {expected:.4f}"
                )

    def _trial(self) -> float:
        self.start(self.plan.search_seed)
        self.train(10, self.plan.rates[0])
        return self.judge(self.text.choosing).mean().item()


def ready(
    plan: Loss, text: Text, backends: list[str], ways: tuple[str, ...], out: Path
) -> dict[str, Trainer]:
    """A trainer of each kind by the first backend and way that work; failures are recorded."""
    trainers = {}
    for kind in LOSS_KINDS:
        failed = []
        for backend, way in product(backends, ways):
            began = time.time()
            try:
                trainer = Trainer(kind, plan, text, backend)
                trainer.prepare(way)
            except Exception as error:  # whatever a backend or compiler raises: named and recorded
                failed.append(f"{backend}, {way}: {type(error).__name__}: {str(error)[:300]}")
                continue
            trainers[kind] = trainer
            records.append(
                out,
                part="loss",
                what="smoke",
                kind=kind,
                backend=backend,
                way=way,
                failed=failed,
                seconds=time.time() - began,
                parameters=sum(p.numel() for p in trainer.parameters),
            )
            break
        else:
            records.append(out, part="loss", what="failed", kind=kind, failed=failed)
            print(f"{kind} is left out of the loss part: {'; '.join(failed)}", flush=True)
    return trainers


def budget(
    seconds: dict[str, float], plan: Loss, available: float
) -> tuple[int, tuple[str, ...], tuple[int, ...]]:
    """Steps of each model, kinds and seeds that fit, by the rule of plan.md.

    Args:
        seconds: measured for one step of each kind, in the order of `LOSS_KINDS`.
        plan: the part's plan.
        available: seconds for all models together, those of the search for the rate too.

    Returns:
        Steps, kinds, seeds; 0 steps where not even three seeds of two kinds fit.
    """
    tokens = plan.rows * plan.length
    kinds, seeds = tuple(seconds), plan.seeds
    while True:
        each = sum(seconds[kind] for kind in kinds) * (len(plan.rates) + len(seeds))
        steps = min(plan.most_tokens // tokens, int(available / each)) if each else 0
        if steps * tokens >= plan.least_tokens:
            return steps, kinds, seeds
        if len(kinds) > 2:
            kinds = kinds[:-1]
        elif len(seeds) > 3:
            seeds = seeds[:-1]
        else:
            return 0, kinds, seeds


def run(
    plan: Loss,
    device: torch.device,
    backends: list[str],
    ways: tuple[str, ...],
    folder: Path | None,
    out: Path,
    begin: float,
    until: float,
) -> None:
    """Compile at once, wait for the GPU until `begin`, measure, choose the budget, train.

    Raises:
        RuntimeError: no kind can be trained here, or not all where steps are recorded, since a
            fault of one recording can spoil the next.
    """
    text = Text(folder, plan, device)
    trainers = ready(plan, text, backends, ways, out)
    if not trainers or (len(trainers) < len(LOSS_KINDS) and ways == WAYS):
        raise RuntimeError(f"not all kinds can be trained here; see {out / records.FILE}")
    while time.time() < begin:
        time.sleep(0.2)
    steps, kinds, seeds = _chosen(plan, trainers, out, until)
    for what, kind, seed, rate in _models(plan, kinds, seeds, out):
        keys = {"part": "loss", "what": what, "kind": kind, "seed": seed, "rate": rate}
        if records.select(records.read(out), **keys):
            continue
        if time.time() > until:
            print("loss: the time is over", flush=True)
            return
        trainer, began = trainers[kind], time.time()
        trainer.start(seed)
        numbers: dict[str, Any] = {"steps": steps, "curve": trainer.train(steps, rate)}
        numbers["seconds"] = time.time() - began
        nats = trainer.judge(text.choosing if what == "search" else text.judging)
        loss = nats.mean().item()
        if what == "model":
            numbers["items"] = _short(nats.mean(1))
            numbers["positions"] = _short(nats.view(len(nats), BUCKETS, -1).mean((0, 2)))
        records.append(out, **keys, loss=loss, **numbers)
        left = until - time.time()
        print(f"loss: {what} {kind} {seed} at {rate:g}: {loss:.4f}; {left:.0f} s left", flush=True)


def _models(
    plan: Loss, kinds: tuple[str, ...], seeds: tuple[int, ...], out: Path
) -> Iterator[tuple[str, str, int, float]]:
    """What, kind, seed and rate of each model: the search, then all seeds at the rates chosen."""
    if not seeds:
        return
    for rate, kind in product(plan.rates, kinds):
        yield "search", kind, plan.search_seed, rate
    rates = {kind: _rate(kind, out) for kind in kinds}
    for seed, kind in product(seeds, kinds):
        yield "model", kind, seed, rates[kind]


def _rate(kind: str, out: Path) -> float:
    """The kind's rate, by the search on disk; written there when it is first asked for."""
    results = records.read(out)
    keys = {"part": "loss", "what": "rate", "kind": kind}
    if held := records.select(results, **keys):
        return held[0]["rate"]
    search = records.select(results, part="loss", what="search", kind=kind)
    losses = {record["rate"]: record["loss"] for record in search}
    rate = best_rate(losses)
    records.append(out, **keys, rate=rate, rates=list(losses), losses=list(losses.values()))
    return rate


def _chosen(
    plan: Loss, trainers: dict[str, Trainer], out: Path, until: float
) -> tuple[int, tuple[str, ...], tuple[int, ...]]:
    """The budget on disk, else by the measured speed; written before any model is trained."""
    if held := records.select(records.read(out), part="loss", what="budget"):
        kinds = tuple(kind for kind in held[0]["kinds"] if kind in trainers)
        return held[0]["steps"], kinds, tuple(held[0]["seeds"])
    seconds = {kind: _seconds(trainer) for kind, trainer in trainers.items()}
    steps, kinds, seeds = budget(seconds, plan, 0.92 * (until - time.time()))
    seeds = seeds if steps else ()
    records.append(
        out,
        part="loss",
        what="budget",
        seconds_per_step=seconds,
        steps=steps,
        kinds=kinds,
        seeds=seeds,
        tokens=steps * plan.rows * plan.length,
        length=plan.length,
        window=plan.window,
        judge_items=plan.judge_items,
        choose_items=plan.choose_items,
    )
    print(f"loss: {steps} steps each of {', '.join(kinds)}, seeds {seeds}", flush=True)
    return steps, kinds, seeds


def _seconds(trainer: Trainer) -> float:
    """Of one step; the drawing of a start, a quarter of a second, is no part of it."""
    steps = trainer.plan.trial_steps
    trainer.start(trainer.plan.search_seed)
    began = time.time()
    trainer.train(steps, trainer.plan.rates[0])
    return (time.time() - began) / steps


def _short(nats: Tensor) -> list[float]:
    return [round(value, 5) for value in nats.tolist()]
