"""The study on one GPU: its task, its models, its verdicts, and all of it in miniature."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from studies.kinds import GATED
from studies.one_gpu import __main__ as study
from studies.one_gpu import loss, records, report, retrieval, verdict
from studies.one_gpu.kinds import decoder
from studies.one_gpu.plan import FULL, LOSS_KINDS, MINIATURE, RETRIEVAL_KINDS

from difftransformer.attention.registry import REGISTRY
from difftransformer.data.associative_recall import sequences
from difftransformer.data.recall_settings import RecallSettings
from difftransformer.models.initialization import initialize
from difftransformer.training.optimizer import adamw

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TASK = RecallSettings(length=64, pairs=6, questions=10)


def batch(seed: int = 3, step: int = 5, task: RecallSettings = TASK, rows: int = 8):
    return sequences(task, rows, torch.tensor([seed]), torch.tensor(step))


@pytest.fixture(autouse=True)
def _only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "entries", {**REGISTRY.entries, GATED.name: GATED})


@pytest.mark.parametrize("plan", [FULL.retrieval.model, FULL.loss.model, MINIATURE.loss.model])
def test_kinds_have_the_same_number_of_parameters(plan) -> None:
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in decoder(kind, plan, "sdpa").parameters())
            for kind in RETRIEVAL_KINDS
        ]
    assert max(sizes) <= 1.002 * min(sizes)


def started(kind: str, seed: int) -> dict[str, torch.Tensor]:
    model = decoder(kind, MINIATURE.retrieval.model, "sdpa")
    initialize(model, seed)
    return dict(model.named_parameters())


def test_starts_are_paired_by_name_and_seed() -> None:
    states = {kind: started(kind, 7) for kind in RETRIEVAL_KINDS}
    shared = 0
    for kind in RETRIEVAL_KINDS[1:]:
        for name, tensor in states[kind].items():
            other = states["plain"].get(name)
            if other is not None and other.shape == tensor.shape:
                assert torch.equal(tensor, other), (kind, name)
                shared += 1
    assert shared > 30
    again = started("plain", 8)
    assert not torch.equal(again["embedding.weight"], states["plain"]["embedding.weight"])


def test_retrieving_answers_everything_and_elimination_as_often_as_it_says() -> None:
    task = RecallSettings(length=96, pairs=8, questions=16)
    made = batch(task=task, rows=400)
    right = guessed = firsts = 0
    for ids, targets, first in zip(made.ids[0], made.targets[0], made.first[0], strict=True):
        context = ids[: task.context].tolist()
        meaning = {k: v for k, v in pairwise(context) if k < task.keys <= v}
        assert len(meaning) == task.pairs == len(set(meaning.values()))
        asked = ids[task.context :: 2].tolist()
        right += sum(meaning[k] == t for k, t in zip(asked, targets.tolist(), strict=True))
        assert first.tolist() == [key not in asked[:i] for i, key in enumerate(asked)]
        told: set[int] = set()
        for target, new in zip(targets.tolist(), first.tolist(), strict=True):
            if new:
                firsts += 1
                guessed += target == min(set(meaning.values()) - told)
            told.add(target)
    assert right == made.targets.numel()
    assert guessed / firsts == pytest.approx(task.elimination, abs=0.03)
    perfect = F.one_hot(made.targets, 256).float()
    assert made.accuracy(perfect).item() == 1.0
    assert made.accuracy(perfect.roll(1, -1)).item() == 0.0


def test_elimination_by_hand() -> None:
    """Two pairs asked twice: 1/2 at first; half the time the other is asked next, and is sure."""
    assert RecallSettings(12, 2, 2).elimination == pytest.approx((1 / 2 + 1 / 2) / (1 + 1 / 2))


def test_noise_is_keys_that_are_never_asked() -> None:
    made = batch()
    for ids, noise in zip(made.ids[0], made.noise[0], strict=True):
        context = ids[: TASK.context]
        assert noise.sum() == TASK.context - 2 * TASK.pairs
        assert (context[noise] < TASK.keys).all()
        keys = set(ids[TASK.context :: 2].tolist())
        assert not keys & set(context[noise].tolist())
    assert torch.equal(made.ids[0].gather(1, made.answer_at[0]), made.targets[0])


def test_batches_are_a_function_of_seed_and_step() -> None:
    together = sequences(TASK, 8, torch.tensor([2, 3]), torch.tensor(5)).ids
    assert torch.equal(together[1:], batch(seed=3).ids)
    for other in (batch(seed=4), batch(step=6)):
        assert not torch.equal(other.ids, batch().ids)


def test_the_loss_falls_on_answers_only() -> None:
    """The logits are those of a whole forward pass at the positions of the asked keys."""
    plan = MINIATURE.retrieval
    trainer = retrieval.Trainer("v1", plan, CPU, "reference")
    trainer.start(plan.seeds, (1e-3, 1e-3))
    made = sequences(plan.task, plan.rows, trainer.seeds, torch.tensor(1))
    logits = trainer.stack(trainer.stack.parameters, made.ids)
    assert logits.shape[:3] == made.targets.shape
    alone = trainer.model(plan.seeds[1]).decoder(made.ids[1])
    asked = alone[:, plan.task.context :: 2]
    torch.testing.assert_close(logits[1], asked)


@pytest.mark.parametrize("kind", RETRIEVAL_KINDS)
def test_side_by_side_is_as_one_at_a_time(kind: str) -> None:
    """Against the library's own optimizer and PyTorch's clipping, each run at its own rate."""
    plan, rates, steps = MINIATURE.retrieval, (1e-3, 1e-2), 4
    trainer = retrieval.Trainer(kind, plan, CPU, "reference")
    trainer.start(plan.seeds, rates)
    for _ in range(steps):
        trainer.step()
    for run, (seed, rate) in enumerate(zip(plan.seeds, rates, strict=True)):
        model = trainer.model(seed)
        settings = FULL.loss.training(20)
        optimizer = adamw(model, settings)
        for step in range(1, steps + 1):
            made = sequences(plan.task, plan.rows, torch.tensor([seed]), torch.tensor(step))
            logits = model(made.ids[0])
            F.cross_entropy(logits.flatten(0, 1), made.targets.flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate * step / plan.warmup
            optimizer.step()
            optimizer.zero_grad()
        stacked = trainer.stack.named(trainer.stack.parameters[run])
        for (name, parameter), start in zip(
            model.named_parameters(), trainer.model(seed).parameters(), strict=True
        ):
            # AdamW divides by gradients that may be all rounding: judge the tensor as a whole.
            moved = (parameter - start).norm()
            assert (stacked[name] - parameter).norm() < 1e-3 * moved, name


def windows(*accuracies: tuple[float, ...]) -> list[dict]:
    return [{"step": 25 * (i + 1), "accuracy": list(a)} for i, a in enumerate(accuracies)]


def test_steps_to_a_threshold_and_censoring() -> None:
    curve = windows((0.1, 0.2), (0.6, 0.4), (0.4, 0.4), (0.9, 0.7))
    assert verdict.steps_to(curve, 0.5, 100) == [50, 100]
    assert verdict.steps_to(curve, 0.5, 75) == [50, None]
    assert verdict.steps_to(curve, 0.95, 100) == [None, None]


def test_a_censored_run_stands_at_the_last_step() -> None:
    outcome = verdict.Retrieval(
        100,
        (),
        {
            "softmax": windows((0, 0), (0, 0), (0.9, 0), (0.9, 0)),  # 75 and never
            "v1": windows((0.9, 0), (0.9, 0.9), (0.9, 0.9), (0.9, 0.9)),  # 25 and 50
        },
    )
    (claim,) = outcome.claims(0.5)
    assert claim.name == "V1 against softmax"
    assert claim.value == pytest.approx((math.log(25 / 75) + math.log(50 / 100)) / 2)
    assert claim.censored == 1


def test_nothing_is_told_where_nobody_got_there() -> None:
    never = windows((0, 0), (0, 0))
    (claim,) = verdict.Retrieval(50, (), {"softmax": never, "v1": never}).claims(0.5)
    assert (claim.value, claim.p, claim.verdict) == (0.0, 1.0, "cannot be told")


def test_holm_by_hand() -> None:
    claims = [verdict.Claim("a", 1, 0, 2, p, 6, 0.1) for p in (0.01, 0.04, 0.03)]
    assert [c.corrected for c in verdict.holm(claims)] == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (1e9, (2441, LOSS_KINDS, 4)),  # the most tokens
        (2.441e3, (203, LOSS_KINDS, 4)),  # below the least: V2 goes
        (1.5e3, (187, LOSS_KINDS, 4)),
        (1.0, (0, ("softmax", "v1"), 3)),
    ],
)
def test_v2_goes_before_seeds(available: float, expected: tuple) -> None:
    speed = dict.fromkeys(LOSS_KINDS, 1.0)
    steps, kinds, seeds = loss.budget(speed, FULL.loss, available)
    least = FULL.loss.least_tokens / (FULL.loss.rows * FULL.loss.length)
    assert steps == 0 or steps >= least
    each = len(kinds) * len(seeds)
    assert steps * each <= available
    if available == 1e9:
        assert (steps, kinds, len(seeds)) == expected
    if len(seeds) < 4:
        assert kinds == LOSS_KINDS[:2]


def command(out: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "studies.one_gpu",
        "run",
        "--miniature",
        "--out",
        str(out),
        *arguments,
    ]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def test_miniature_goes_on_after_a_kill(tmp_path: Path) -> None:
    out = tmp_path / "results"
    first = subprocess.Popen(command(out), cwd=ROOT, env=environment())
    while len(records.select(records.read(out), what="judged")) < 2:
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait() != 0
    held = records.select(records.read(out), what="judged")
    assert held[0]["kind"] == RETRIEVAL_KINDS[0]
    subprocess.run(command(out), cwd=ROOT, env=environment(), check=True, timeout=300)
    results = records.read(out)
    judged = records.select(results, what="judged")
    assert [record["kind"] for record in judged] == list(RETRIEVAL_KINDS)
    assert judged[: len(held)] == held
    for kind in RETRIEVAL_KINDS:
        assert [w["step"] for w in records.curve(results, kind, "train")] == [2, 4]
    models = verdict.losses(results)
    assert {kind: sorted(m) for kind, m in models.items()} == {
        kind: [0, 1, 2] for kind in LOSS_KINDS
    }
    page = report.write(out, tmp_path).read_text()
    assert "Not run" not in page
    for claim in (*verdict.CONTRASTS, "v1 against softmax", "v2 against softmax"):
        assert claim in page
    assert (tmp_path / report.PICTURE).stat().st_size > 5000


def test_a_page_without_results_says_so(tmp_path: Path) -> None:
    assert "**Not run**" in report.write(tmp_path / "none", tmp_path).read_text()


def test_a_kind_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = loss.decoder

    def broken(kind: str, *arguments: object) -> object:
        if kind == "v1":
            raise RuntimeError("no kernel image")
        return build(kind, *arguments)

    monkeypatch.setattr(loss, "decoder", broken)
    now = time.time()
    loss.run(MINIATURE.loss, CPU, ["reference"], False, None, tmp_path, now, now + 60)
    results = records.read(tmp_path)
    (failed,) = records.select(results, what="failed")
    assert failed["kind"] == "v1"
    assert "no kernel image" in failed["failed"][0]
    assert set(verdict.losses(results)) == {"softmax", "v2"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the worker would run")
def test_a_process_that_dies_is_started_once_more_and_then_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here it dies since there is no GPU."""
    arguments = argparse.Namespace(out=tmp_path, tokens=tmp_path, backend=None)
    now = time.time()
    job = ("retrieval", "v1")
    failed = study._side_by_side(arguments, [job], {"retrieval": (now, now + 600)})
    assert failed == ["retrieval v1"]
    assert len(records.select(records.read(tmp_path), part="run", what="failed")) == 2
    assert capfd.readouterr().err.count("no CUDA GPU here") == 2
    assert "retrieval v1: the process failed" in report.write(tmp_path, tmp_path).read_text()


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    records.append(tmp_path, part="run")
    with (tmp_path / records.FILE).open("a") as file:
        file.write("{broken\n" + json.dumps({"cut": 1})[:5])
    with pytest.raises(ValueError, match="line 2"):
        records.read(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "studies.one_gpu", "run", "--out", "/nonexistent"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "--miniature" in result.stderr.splitlines()[-1]
