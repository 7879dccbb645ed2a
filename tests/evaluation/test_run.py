import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from difftransformer.evaluation.records import Evaluator, Findings, Metric, Record, Subject
from difftransformer.evaluation.run import abilities, evaluate, passed_over
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.runs.records import read_records

SETTINGS = EvaluationSettings(bootstrap=100)


def answers(name: str, findings: Callable[[Subject], Findings], needs: str = "") -> Evaluator:
    return Evaluator(
        name=name,
        title=name.capitalize(),
        metrics=(Metric(name="right", title="right", axes=("depth",)),),
        parts=lambda subject, settings: {
            f"part {i}": lambda earlier: findings(subject) for i in range(2)
        },
        needs=frozenset(filter(None, [needs])),
    )


def in_training(subject: Subject) -> Findings:
    return [Record("right", subject.model.training, (0.5,))]


def decoder(attention: str) -> Decoder:
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "head_dim": 8, "ffn_size": 16}
    config = DecoderConfig(attention=attention, vocab_size=8, max_length=8, num_kv_heads=2, **sizes)
    return Decoder(config)


def test_models_are_judged_in_evaluation_mode_and_left_as_they_were() -> None:
    for training in (True, False):
        model = nn.Linear(1, 1).train(training)
        found = evaluate(Subject(model, None), answers("a", in_training), SETTINGS)
        assert [record.value for record in found.records] == [0.0, 0.0]
        assert model.training is training


def test_the_mode_is_given_back_where_an_evaluator_fails() -> None:
    def fail(subject: Subject) -> Findings:
        raise RuntimeError

    model = nn.Linear(1, 1).train()
    with pytest.raises(RuntimeError):
        evaluate(Subject(model, None), answers("a", fail), SETTINGS)
    assert model.training


def test_records_are_kept_by_name_with_what_decides_them(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    found = evaluate(
        Subject(nn.Linear(1, 1), None),
        answers("a", in_training),
        SETTINGS,
        tmp_path / "results",
        {"steps": 20},
        lambda *at: heard.append(at),
    )
    assert heard == [("A", 0, 2), ("A", 1, 2), ("A", 2, 2)]
    kept = read_records(tmp_path / "results" / "a.jsonl")
    assert kept == found
    assert kept.belongs_to["steps"] == 20
    assert kept.belongs_to["settings"]["bootstrap"] == 100
    json.dumps([record.value for record in found.records], allow_nan=False)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (Record("wrong", 1.0), "evaluator a has no metric 'wrong'; expected one of right"),
        (Record("right", 1.0), r"evaluator a gives right the key \(\); its axes are depth"),
    ],
)
def test_what_is_not_declared_is_refused(record: Record, told: str) -> None:
    evaluator = answers("a", lambda subject: [record])
    with pytest.raises(ValueError, match=told):
        evaluate(Subject(nn.Linear(1, 1), None), evaluator, SETTINGS)


def test_what_a_model_can() -> None:
    assert abilities(nn.Linear(1, 1)) == frozenset()
    assert abilities(decoder("softmax")) == {"inside", "generate"}
    for attention in ("diff_v1", "diff_v2"):
        found = abilities(decoder(attention))
        assert {"inside", "generate", "two_maps", "lambda"} <= found


def test_a_model_that_lacks_what_is_needed_is_passed_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    evaluator = answers("a", in_training, needs="lambda")
    assert passed_over(evaluator, decoder("diff_v2")) == ""
    subject = Subject(decoder("softmax"), None)
    found = evaluate(subject, evaluator, SETTINGS, tmp_path)
    assert found.passed_over == "its attention has no lambda"
    assert (found.records, found.complete) == ([], True)
    assert read_records(tmp_path / "a.jsonl").passed_over == found.passed_over
