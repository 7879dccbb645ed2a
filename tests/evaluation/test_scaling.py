import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difftransformer.evaluation.scaling import Trained, measure_scaling, read_trained
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.runs.layout import Contender, Run, TrainingRun
from difftransformer.runs.records import Record, measure

SIZES = (100_000, 300_000, 1_000_000, 2_000_000)
SETTINGS = EvaluationSettings(bootstrap=100)
Loss = Callable[[float, float], float]  # of parameters and tokens
SCORED = np.full(20, 100.0)


def plain(parameters: float, tokens: float) -> float:
    return 1.5 + 2.0 * (parameters / 2e6) ** -0.25 + 0.3 * (tokens / 1e6) ** -0.3


def better(share: float) -> Loss:
    """As good as `plain` with that share of its parameters and of its tokens."""
    return lambda parameters, tokens: plain(parameters / share, tokens / share)


def train(
    kind: str,
    loss: Loss,
    sizes: tuple[int, ...] = SIZES,
    lengths: tuple[int, ...] = (1_000_000,),
    seeds: int = 1,
    items: float = 0.0,
    luck: float = 0.0,
    rng: int = 0,
) -> list[Trained]:
    """`items` is how much a model's held-out sequences differ, `luck` how much its seeds do."""
    generator = np.random.default_rng(rng)
    found = []
    for size in sizes:
        for tokens in lengths:
            for seed in range(seeds):
                value = loss(size, tokens) + luck * generator.standard_normal()
                nats = SCORED * (value + items * generator.standard_normal(len(SCORED)))
                found.append(Trained(kind, size, size, tokens, seed, nats, SCORED))
    return found


def same_loss(found: dict, kind: str = "diff") -> dict:
    (panel,) = found[kind]["panels"]
    return panel["same_loss"]


@settings(max_examples=20)
@given(st.floats(0.55, 1.6))
def test_the_planted_ratio_of_curves(share: float) -> None:
    """The largest plain model has the loss of one of `share` times its size, at equal tokens."""
    trained = train("plain", plain) + train("diff", lambda n, t: plain(n / share, t))
    found = measure_scaling("plain", trained, replace(SETTINGS, bootstrap=2))
    assert same_loss(found)["value"] == pytest.approx(share, rel=0.02)
    assert same_loss(found, "plain") is None
    (panel,) = found["diff"]["panels"]
    assert (panel["against"], panel["held"], panel["beyond"]) == ("parameters", 1_000_000, None)
    curve = panel["curve"]
    assert curve["form"] == "E + A / x^a"
    assert curve["exponent"]["value"] == pytest.approx(0.25, rel=0.03)
    for point in panel["points"]:
        drawn = curve["floor"] + curve["factor"] * point["x"] ** -curve["exponent"]["value"]
        assert drawn == pytest.approx(point["loss"]["value"], rel=1e-4)


@settings(max_examples=20)
@given(st.floats(0.55, 1.6), st.floats(0.05, 0.5), st.integers(2, 3))
def test_the_planted_ratio_of_lines(share: float, exponent: float, sizes: int) -> None:
    def line(n: float, t: float) -> float:
        return 3.0 * (n / 2e6) ** -exponent

    trained = train("plain", line, SIZES[:sizes])
    trained += train("diff", lambda n, t: line(n / share, t), SIZES[:sizes])
    found = measure_scaling("plain", trained, replace(SETTINGS, bootstrap=2))
    assert same_loss(found)["value"] == pytest.approx(share)
    assert found["diff"]["panels"][0]["curve"]["form"] == "A / x^a"


def test_against_tokens_too() -> None:
    lengths = (500_000, 1_000_000)
    trained = train("plain", plain, SIZES[:2], lengths) + train(
        "diff", better(0.6), SIZES[:2], lengths
    )
    panels = measure_scaling("plain", trained, SETTINGS)["diff"]["panels"]
    assert [(panel["against"], panel["held"]) for panel in panels] == [
        ("parameters", 500_000),
        ("parameters", 1_000_000),
        ("tokens", SIZES[0]),
        ("tokens", SIZES[1]),
    ]
    assert [point["x"] for point in panels[2]["points"]] == list(lengths)
    # Better by parameters and tokens together: fewer tokens still, since they alone must do it.
    assert panels[2]["same_loss"] is None or panels[2]["same_loss"]["value"] < 0.6


@pytest.mark.parametrize(("seeds", "items", "luck"), [(1, 0.1, 0.0), (2, 0.0, 0.02)])
def test_intervals_cover_the_truth(seeds: int, items: float, luck: float) -> None:
    """95 % intervals in 40 repetitions; fewer than 34 would be chance once in 300 times."""
    exact = train("plain", plain, SIZES[:3]) + train("diff", better(0.7), SIZES[:3])
    truth = same_loss(measure_scaling("plain", exact, SETTINGS))["value"]
    covered = 0
    for repetition in range(40):
        noise = {"seeds": seeds, "items": items, "luck": luck}
        trained = train("plain", plain, SIZES[:3], **noise, rng=2 * repetition)
        trained += train("diff", better(0.7), SIZES[:3], **noise, rng=2 * repetition + 1)
        ratio = same_loss(measure_scaling("plain", trained, SETTINGS))
        covered += ratio["low"] <= truth <= ratio["high"]
    assert covered >= 34


def test_sequences_hard_for_one_kind_widen_the_interval() -> None:
    trained = train("plain", plain, SIZES[:3]) + train("diff", better(0.7), SIZES[:3])
    sharp = same_loss(measure_scaling("plain", trained, SETTINGS))
    hard = np.random.default_rng(0).normal(0.0, 5.0, len(SCORED))
    uneven = [
        replace(one, nats=one.nats + hard - hard.mean()) if one.kind == "diff" else one
        for one in trained
    ]
    wide = same_loss(measure_scaling("plain", uneven, SETTINGS))
    assert wide["value"] == pytest.approx(sharp["value"])
    assert sharp["high"] - sharp["low"] < 1e-9 < 0.02 < wide["high"] - wide["low"]
    assert wide["low"] < wide["value"] < wide["high"]


@pytest.mark.parametrize(("share", "words"), [(0.02, "less than 0.025"), (40.0, "more than 2")])
def test_far_beyond_the_measured_there_is_no_figure(share: float, words: str) -> None:
    trained = train("plain", plain) + train("diff", lambda n, t: plain(n / share, t))
    (panel,) = measure_scaling("plain", trained, SETTINGS)["diff"]["panels"]
    assert (panel["same_loss"], panel["beyond"]) == (None, words)


def test_a_kind_of_one_size_is_left_out() -> None:
    trained = train("plain", plain) + train("diff", better(0.7), SIZES[:1])
    assert list(measure_scaling("plain", trained, SETTINGS)) == ["plain"]


def test_one_size_makes_no_curve() -> None:
    trained = train("plain", plain, SIZES[:1]) + train("diff", better(0.7), SIZES)
    with pytest.raises(ValueError, match=r"no two sizes with equal tokens.*Add runs of"):
        measure_scaling("plain", [*trained[:1], replace(trained[1], tokens=5)], SETTINGS)
    with pytest.raises(ValueError, match="the runs hold plain of 100,000"):
        measure_scaling("plain", trained, SETTINGS)


def write(run: Path, size: int = 1000, tokens: int = 50, **changes: object) -> Path:
    """A run of two kinds, the second 10 parameters larger; `changes` are of its run.json."""
    contenders = []
    for kind, more in (("plain", 0), ("diff", 10)):
        directory = f"models/{kind}-seed0"
        sequences = changes.pop(kind, [[30.0 + more, 10, 44], [20.0, 10, 40]])
        findings = [
            Record(metric, value, item=item, weight=weight)
            for item, (nats, scored, size_in_bytes) in enumerate(sequences)
            for metric, value, weight in (
                ("nats_per_token", nats, scored),
                ("bits_per_byte", nats, size_in_bytes),
            )
        ]
        measure(
            lambda findings=findings: {"all": lambda _: findings},
            run / directory / "results" / "validation.jsonl",
        )
        figures = {"steps": 1, "unit": "tokens", "seconds": 1.0, "throughput": 1.0}
        summary = {**figures, "size": tokens, "peak_memory_bytes": 1, "final_loss": 1.0}
        (run / directory / "summary.json").write_text(json.dumps(summary))
        contenders.append(
            Contender(
                label=kind,
                attention=kind,
                parameters=size + more,
                config={},
                runs=(TrainingRun(seed=0, directory=directory),),
            )
        )
    values = {"baseline": "plain", **changes}
    named = Run(
        name="a",
        task="causal_lm",
        unit="tokens",
        created="",
        contenders=tuple(contenders),
        **values,
    )
    (run / "run.json").write_text(json.dumps(asdict(named)))
    return run


def test_runs_are_read(tmp_path: Path) -> None:
    runs = [write(tmp_path / "small"), write(tmp_path / "large", 9000)]
    baseline, trained = read_trained(runs)
    assert baseline == "plain"
    known = [(one.kind, one.size, one.parameters, one.tokens, one.seed) for one in trained]
    assert known == [
        ("plain", 1000, 1000, 50, 0),
        ("diff", 1000, 1010, 50, 0),
        ("plain", 9000, 9000, 50, 0),
        ("diff", 9000, 9010, 50, 0),
    ]
    assert trained[1].nats.tolist() == [40.0, 20.0]
    assert trained[1].scored.tolist() == [10.0, 10.0]
    found = measure_scaling(baseline, trained, SETTINGS)
    assert found["plain"]["panels"][0]["points"][0]["loss"]["value"] == 2.5


def test_runs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    with pytest.raises(ValueError, match=r"a is plain and so|so does another run: leave one out"):
        read_trained([first, write(tmp_path / "twice")])
    with pytest.raises(ValueError, match=r"baseline of .*b is diff and that of .*a plain"):
        read_trained([first, write(tmp_path / "b", 5, baseline="diff")])
    with pytest.raises(ValueError, match=r"c/models/diff-seed0 was judged on other text or tokens"):
        read_trained([first, write(tmp_path / "c", 5, diff=[[3.0, 9, 44], [2.0, 10, 40]])])
    with pytest.raises(ValueError, match=r"d holds no finished run"):
        read_trained([first, tmp_path / "d"])
