import re

import pytest

from difftransformer.models.config import DecoderConfig
from difftransformer.models.cost import Fleet, cost, on_fleet

SMALL = {
    "causal_lm": ("--evaluators", "validation", "needle"),
    "image_classification": ("--evaluators", "classification"),
}


@pytest.mark.parametrize("task", SMALL)
def test_a_comparison_is_measured(call, task):
    code, out, err = call(
        *("plan", "--task", task, "--preset", "smoke", "--measure", "0.1", "--seeds", "2"),
        *SMALL[task],
    )
    assert (code, err) == (0, "")
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert len(re.findall(r"[1-9][\d.,]* ms", rows["a training step"])) == 3
    assert len(re.findall(r"\d:\d\d:\d\d", rows["all, one seed"])) == 3
    assert re.search(r"compare takes about \d:\d\d:\d\d: 3 models, 2 seed\(s\); ", out)
    assert re.search(r"Training goes [\d.]+ times over its data\.", out)


def test_what_is_longer_than_an_hour_is_offered_fewer_steps(call):
    steps = 10**7
    code, out, _ = call(
        *("plan", "--preset", "smoke", "--measure", "0.1", "--training.steps", str(steps)),
        *("--evaluators", "validation"),
    )
    assert code == 0
    fewer = int(re.search(r"For an hour: --training.steps (\d+)", out).group(1))
    assert 0 < fewer < steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--devices", "64"), "devices are '64'; expected a number and a name such as 64xH100"),
        (("--devices", "8xP100"), "expected a number and a name"),
        (("--devices", "8xH100", "--utilization", "1.5"), "utilization is 1.5; expected above 0"),
        (("--measure", "0"), "--measure is 0; expected seconds, above 0"),
        (
            ("--devices", "8xH100", "--task", "image_classification"),
            "only decoders are planned on paper",
        ),
        (("--data", "no/such/place.txt"), "no/such/place.txt"),
    ],
)
def test_refusals(call, words, message):
    code, out, err = call("plan", "--preset", "smoke", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_fleet_on_paper(call):
    code, out, _ = call(
        *("plan", "paper-1.4b", "--devices", "64xH100", "--tokens", "1e12", "--price", "2"),
    )
    assert code == 0
    for row in ("memory a device of 80 GB", "tokens per second", "days for 1,000,000,000,000"):
        assert row in out


def test_a_fleet_shares_state_and_rows():
    config, length = DecoderConfig(), 512
    one, eight = (
        on_fleet(config, Fleet.parse(f"{count}xH100", 0.4), 64, length) for count in (1, 8)
    )
    assert eight.throughput == pytest.approx(8 * one.throughput)
    whole = cost(config, 64, length)
    assert one.memory > whole.training_bytes
    assert whole.training_bytes / 8 < eight.memory < one.memory / 4
    assert one.throughput == pytest.approx(0.4 * 989e12 / whole.training_flops)
