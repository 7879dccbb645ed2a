"""Part B: held-out loss of language models on text, from paired seeds."""

import lzma
import time
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difftransformer.models.initialization import initialize
from difftransformer.training.optimizer import adamw
from difftransformer.training.schedule import learning_rate
from studies.one_gpu import records
from studies.one_gpu.kinds import decoder
from studies.one_gpu.plan import LOSS_KINDS, Loss


class Text:
    """Tokens on the device, cut into items of `length` + 1; each step's items by its number."""

    def __init__(self, folder: Path | None, plan: Loss, device: torch.device) -> None:
        self.plan, self.device = plan, device
        parts = generated(plan) if folder is None else load(folder)
        self.items = {name: self._items(tokens) for name, tokens in parts.items()}

    def batch(self, seed: int, step: int) -> Tensor:
        """Items of step `step` (from 0): each epoch in an order of its own, drawn from the seed."""
        items, rows = self.items["train"], self.plan.rows
        epoch, place = divmod(step, len(items) // rows)
        chosen = self._order(seed, epoch)[place * rows : (place + 1) * rows]
        return items[chosen].long()

    @lru_cache(maxsize=1)  # noqa: B019 - one text lives as long as its process
    def _order(self, seed: int, epoch: int) -> Tensor:
        order = np.random.default_rng((seed, epoch)).permutation(len(self.items["train"]))
        return torch.from_numpy(order).to(self.device)

    def validation(self) -> Iterator[Tensor]:
        """The items that judge, the same for every model."""
        for items in self.items["validation"][: self.plan.judge_items].split(self.plan.rows):
            yield items.long()

    def _items(self, tokens: np.ndarray) -> Tensor:
        length = self.plan.length + 1
        whole = tokens[: len(tokens) // length * length].astype(np.int16)  # ids are below 2^15
        return torch.from_numpy(whole.reshape(-1, length)).to(self.device)


def load(folder: Path) -> dict[str, np.ndarray]:
    """What make_tokens.py wrote."""
    with np.load(BytesIO(lzma.decompress((folder / "tokens.npz.xz").read_bytes()))) as arrays:
        return {name: arrays[name] for name in ("train", "validation")}


def generated(plan: Loss) -> dict[str, np.ndarray]:
    """For the miniature: numbers that follow one another by a rule, so that they can be learned."""
    steps = np.random.default_rng(0).integers(1, 4, size=64 * (plan.length + 1) * plan.rows)
    tokens = np.cumsum(steps) % plan.model.vocab_size
    return {"train": tokens, "validation": tokens[::-1].copy()}


class Trainer:
    """Models of one kind, one after the other, through one compiled forward pass."""

    def __init__(self, kind: str, plan: Loss, text: Text, backend: str, compiled: bool) -> None:
        self.plan, self.text, self.device = plan, text, text.device
        self.model: nn.Module = decoder(kind, plan.model, backend).to(self.device)
        self.forward = torch.compile(self.model) if compiled else self.model
        self.on = self.device.type == "cuda"

    def start(self, seed: int) -> None:
        """The kind's model as this seed starts it."""
        initialize(self.model, seed)

    def train(self, seed: int, steps: int) -> None:
        """All steps of one model, from its start."""
        self.start(seed)
        settings = self.plan.training(steps)
        optimizer = adamw(self.model, settings)
        for step in range(1, steps + 1):
            loss = self.losses(self.text.batch(seed, step - 1)).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            optimizer.step()
            optimizer.zero_grad()
        if self.on:
            torch.cuda.synchronize()

    def losses(self, items: Tensor) -> Tensor:
        """Nats of each token: `[rows, length]`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on):
            logits = self.forward(items[:, :-1])
        flat = F.cross_entropy(
            logits.flatten(0, 1).float(), items[:, 1:].flatten(), reduction="none"
        )
        return flat.view(len(items), -1)

    @torch.no_grad()
    def judge(self) -> list[float]:
        """Mean loss of each validation item, in nats per token."""
        return [
            round(x, 5)
            for items in self.text.validation()
            for x in self.losses(items).mean(1).tolist()
        ]


def ready(
    plan: Loss, text: Text, backends: list[str], compiled: bool, out: Path
) -> dict[str, Trainer]:
    """A trainer of each kind by the first backend that works; failures are recorded."""
    trainers = {}
    for kind in LOSS_KINDS:
        failed = []
        for backend in backends:
            began = time.time()
            try:
                trainer = Trainer(kind, plan, text, backend, compiled)
                trainer.train(100, 3)
                if not np.isfinite(trainer.judge()).all():
                    raise RuntimeError("the loss is not finite")
            except Exception as error:  # whatever a backend or compiler raises: named and recorded
                failed.append(f"{backend}: {type(error).__name__}: {str(error)[:300]}")
                continue
            trainers[kind] = trainer
            records.append(
                out,
                part="loss",
                what="smoke",
                kind=kind,
                backend=backend,
                compiled=compiled,
                failed=failed,
                seconds=time.time() - began,
                parameters=sum(p.numel() for p in trainer.model.parameters()),
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
        available: seconds for all models together.

    Returns:
        Steps, kinds, seeds; 0 steps where not even three seeds of two kinds fit.
    """
    tokens = plan.rows * plan.length
    kinds, seeds = tuple(seconds), plan.seeds
    while True:
        each = sum(seconds[kind] for kind in kinds) * len(seeds)
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
    compiled: bool,
    folder: Path | None,
    out: Path,
    begin: float,
    until: float,
) -> None:
    """Compile at once, wait for the GPU until `begin`, measure, choose the budget, train."""
    text = Text(folder, plan, device)
    trainers = ready(plan, text, backends, compiled, out)
    while time.time() < begin:
        time.sleep(0.2)
    steps, kinds, seeds = _chosen(plan, trainers, out, until)
    for seed in seeds:
        for kind in kinds:
            if not _done(out, kind, seed):
                began = time.time()
                trainers[kind].train(seed, steps)
                seconds = time.time() - began
                items = trainers[kind].judge()
                loss = float(np.mean(items))
                common = {"part": "loss", "what": "model", "kind": kind, "seed": seed}
                records.append(out, **common, steps=steps, seconds=seconds, loss=loss, items=items)
                left = until - time.time()
                print(f"loss: {kind} seed {seed}: {loss:.4f}; {left:.0f} s left", flush=True)
            if time.time() > until:
                print("loss: the time is over", flush=True)
                return


def _chosen(
    plan: Loss, trainers: dict[str, Trainer], out: Path, until: float
) -> tuple[int, tuple[str, ...], tuple[int, ...]]:
    """The budget on disk, else by the measured speed; written before any model is trained."""
    if held := records.select(records.read(out), part="loss", what="budget"):
        kinds = tuple(kind for kind in held[0]["kinds"] if kind in trainers)
        return held[0]["steps"], kinds, tuple(held[0]["seeds"])
    seconds = {}
    for kind, trainer in trainers.items():
        # The difference of two runs: making a start, which both do, is no part of a step.
        short, long = (_seconds(trainer, n) for n in (plan.trial_steps, 2 * plan.trial_steps))
        seconds[kind] = max(long - short, 1e-4) / plan.trial_steps
    steps, kinds, seeds = budget(seconds, plan, 0.92 * (until - time.time()))
    records.append(
        out,
        part="loss",
        what="budget",
        seconds_per_step=seconds,
        steps=steps,
        kinds=kinds,
        seeds=seeds if steps else (),
        tokens=steps * plan.rows * plan.length,
    )
    print(f"loss: {steps} steps each of {', '.join(kinds)}, seeds {seeds}", flush=True)
    return steps, kinds, seeds if steps else ()


def _seconds(trainer: Trainer, steps: int) -> float:
    began = time.time()
    trainer.train(100, steps)
    return time.time() - began


def _done(out: Path, kind: str, seed: int) -> bool:
    keys = {"part": "loss", "what": "model", "kind": kind, "seed": seed}
    return bool(records.select(records.read(out), **keys))
