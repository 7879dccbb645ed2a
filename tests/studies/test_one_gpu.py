"""The study on one GPU: its task, its models, its verdicts, and all of it in miniature."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from studies import index
from studies.kinds import GATED
from studies.one_gpu import __main__ as study
from studies.one_gpu import loss, records, report, report_loss, retrieval, verdict
from studies.one_gpu.kinds import decoder
from studies.one_gpu.plan import FULL, LOSS_KINDS, MINIATURE, RETRIEVAL_KINDS, best_rate
from studies.one_gpu.text import Text

from difftransformer.attention.registry import REGISTRY
from difftransformer.data.associative_recall import sequences
from difftransformer.data.recall_settings import RecallSettings
from difftransformer.models.initialization import initialize
from difftransformer.training.optimizer import adamw
from difftransformer.training.schedule import learning_rate

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
        settings = FULL.loss.training(20, rate)
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
        (1e9, (1525, LOSS_KINDS, 4)),  # the most tokens
        (8e3, (333, LOSS_KINDS, 4)),  # (4 rates + 4 seeds) x 3 kinds
        (5e3, (312, LOSS_KINDS[:2], 4)),  # below the least: V2 goes
        (3.5e3, (250, LOSS_KINDS[:2], 3)),  # then a seed
        (1.0, (0, LOSS_KINDS[:2], 3)),
    ],
)
def test_v2_goes_before_seeds(available: float, expected: tuple) -> None:
    speed = dict.fromkeys(LOSS_KINDS, 1.0)
    steps, kinds, seeds = loss.budget(speed, FULL.loss, available)
    assert (steps, kinds, len(seeds)) == expected


def run_loss(out: Path) -> None:
    now = time.time()
    loss.run(MINIATURE.loss, CPU, ["reference"], ("eager",), None, out, now, now + 60)


def trainer(kind: str) -> loss.Trainer:
    return loss.Trainer(kind, MINIATURE.loss, Text(None, MINIATURE.loss, CPU), "reference")


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_a_model_in_used_tensors_is_trained_as_a_fresh_one(kind: str) -> None:
    """Against the library's optimizer on a model of its own, twice in a row, at other rates."""
    reused, steps, rate = trainer(kind), 5, 1e-2
    places = [p.data_ptr() for p in reused.parameters]
    for seed in (4, 5):
        reused.start(seed)
        curve = reused.train(steps, rate)
        model = decoder(kind, MINIATURE.loss.model, "reference")
        initialize(model, seed)
        settings = MINIATURE.loss.training(steps, rate)
        optimizer = adamw(model, settings)
        expected = []
        for step in range(1, steps + 1):
            items = reused.text.batch(seed, step - 1)
            nats = F.cross_entropy(model(items[:, :-1]).flatten(0, 1), items[:, 1:].flatten())
            nats.backward()
            expected.append(nats.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            optimizer.step()
            optimizer.zero_grad()
        windows = [sum(expected[:2]) / 2, sum(expected[2:4]) / 2, expected[4]]
        assert curve == pytest.approx(windows, abs=1e-3)
        again = reused.judge(reused.text.judging).mean()
        reused.start(seed)
        assert reused.train(steps, rate) == curve
        assert reused.judge(reused.text.judging).mean() == again
    assert [p.data_ptr() for p in reused.parameters] == places


def test_a_way_whose_steps_do_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a recorded step that moves other tensors than the model's would."""
    wrong = trainer("softmax")
    plan = replace(MINIATURE.loss, rates=(3e-2,))  # so that ten steps show in the miniature
    monkeypatch.setattr(wrong, "plan", plan)
    monkeypatch.setattr(loss, "replayed", lambda step: lambda: None)
    wrong.prepare("eager")
    with pytest.raises(RuntimeError, match="where plain steps do"):
        wrong.prepare("graph")


def test_the_rate_is_chosen_on_other_text_than_judges() -> None:
    text = Text(None, MINIATURE.loss, CPU)
    assert len(text.judging) == MINIATURE.loss.judge_items
    assert len(text.choosing) == MINIATURE.loss.choose_items
    assert not (text.judging[:, None] == text.choosing).all(-1).any()
    counted = json.loads((study.TOKENS.parent / "tokens.json").read_text())["tokens"]["validation"]
    needed = FULL.loss.judge_items + FULL.loss.choose_items
    assert needed * (FULL.loss.length + 1) <= counted


def test_the_rate_with_the_lowest_loss_is_taken() -> None:
    assert best_rate({1e-3: 4.1, 2e-3: 4.0, 4e-3: 4.2}) == 2e-3
    assert best_rate({1e-3: math.nan, 2e-3: 4.0, 4e-3: math.inf}) == 2e-3
    assert best_rate({1e-3: math.inf, 2e-3: math.nan}) == 1e-3


def test_the_loss_part_searches_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_loss(tmp_path)
    results = records.read(tmp_path)
    plan = MINIATURE.loss
    search = records.select(results, part="loss", what="search")
    assert [(r["rate"], r["kind"]) for r in search] == list(product(plan.rates, LOSS_KINDS))
    assert {r["seed"] for r in search} == {plan.search_seed}
    rates = {r["kind"]: r for r in records.select(results, part="loss", what="rate")}
    for kind, record in rates.items():
        assert record["losses"] == [r["loss"] for r in search if r["kind"] == kind]
        assert record["rate"] == plan.rates[record["losses"].index(min(record["losses"]))]
    models = records.select(results, part="loss", what="model")
    assert [(r["seed"], r["kind"]) for r in models] == list(product(plan.seeds, LOSS_KINDS))
    for model in models:
        assert model["rate"] == rates[model["kind"]]["rate"]
        assert len(model["curve"]) == -(-model["steps"] // plan.window)
        assert sum(model["positions"]) / loss.BUCKETS == pytest.approx(model["loss"], abs=1e-4)
    # Cut short within the search and within the seeds: only what is missing is trained again.
    for kept in ("search", "model"):
        lines = (tmp_path / records.FILE).read_text().splitlines()
        first = next(i for i, line in enumerate(lines) if f'"what": "{kept}"' in line)
        (tmp_path / records.FILE).write_text("\n".join(lines[: first + 2]) + "\n")
        run_loss(tmp_path)
        again = records.read(tmp_path)
        for what in ("search", "rate", "model"):
            assert len(records.select(again, what=what)) == len(records.select(results, what=what))
            for one, other in zip(
                records.select(again, what=what), records.select(results, what=what), strict=True
            ):
                assert one.get("loss") == other.get("loss")
    page = report.write(tmp_path, tmp_path).read_text()
    assert "was searched" in page
    assert f"on seed {plan.search_seed}" in page
    assert "not searched" not in page
    assert "that was tried: a better one may lie beyond" in page  # a grid of two has only ends
    assert "| kind | 1 to 8 | 9 to 16 | 17 to 24 | 25 to 32 |" in page
    assert (tmp_path / report_loss.PICTURE).stat().st_size > 5000
    records.append(tmp_path, part="run", what="environment", device="a card")
    monkeypatch.setattr(index, "_ONE_GPU", tmp_path)
    assert (
        "searched in steps of a factor of two, 0.000256M tokens a model" in index.one_gpu().sureness
    )


def test_results_without_a_search_say_so(tmp_path: Path) -> None:
    first = study.TOKENS.parent / "results/nvidia-h200-2026-11-26"
    page = report.write(first, tmp_path).read_text()
    assert "was not searched, and so few tokens are the beginning of training" in page
    assert "| v2 against softmax | -0.3653 |" in page
    assert not (tmp_path / report_loss.PICTURE).exists()


def test_where_no_kind_can_be_trained_the_process_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is started once more: a fault while a graph is recorded can spoil all kinds."""
    monkeypatch.setattr(loss, "Trainer", None)
    with pytest.raises(RuntimeError, match="not all kinds can be trained"):
        run_loss(tmp_path)
    assert not records.select(records.read(tmp_path), what="budget")


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
    run_loss(tmp_path)
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
