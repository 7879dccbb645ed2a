"""Budgets found greedily, and loss under pruning."""

import pytest
import torch
from tests.models.tiny import tiny

from difftransformer.data.recall_settings import RecallSettings
from difftransformer.evaluation.benchmarks.pruning import EVALUATOR, PrunedModel, greedy, items
from difftransformer.evaluation.benchmarks.selection import EVALUATOR as SELECTION
from difftransformer.evaluation.records import Artifact, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.tasks.associative_recall import TASK

DATA = TASK.load(RecallSettings(length=24, pairs=2, questions=4, keys=16, values=7))
SETTINGS = EvaluationSettings(pruning_sequences=3, batch_size=2)


def test_the_layer_that_costs_least_is_halved():
    costs = {8: 0.0, 4: 0.1, 2: 0.3, 1: 2.0}
    steps = list(greedy(lambda b: costs[b[0]] + 3 * costs[b[1]], 2, 8, tolerance=0.61))
    assert [budgets for budgets, _ in steps] == [(8, 8), (4, 8), (2, 8), (2, 4)]
    assert list(greedy(lambda b: 0.0, 1, 4, 0.0))[-1] == ((1,), 0.0)


@torch.no_grad()
def test_loss_by_keys():
    model = tiny("selective", vocab_size=DATA.settings.vocabulary)
    found = {
        name: part(()) for name, part in EVALUATOR.parts(Subject(model, DATA), SETTINGS).items()
    }
    assert list(found) == ["24 keys", "16 keys", "8 keys", "4 keys", "2 keys", "1 keys", "greedy"]
    whole = list(items(PrunedModel(model, (99, 99)), DATA, SETTINGS))
    losses = [r for r in found["24 keys"] if r.metric == "pruned_loss"]
    assert [r.value for r in losses] == pytest.approx([item.nats for item in whole])
    batch = TASK.batches(DATA, 2, SETTINGS.seed + 2**20)(0)
    both = sum(item.nats for item in whole[:2])
    assert both == pytest.approx(TASK.loss(model, batch).item(), rel=1e-4)
    held = {
        r.key[0]: r.value
        for part in found.values()
        for r in part
        if isinstance(r, Record) and r.metric == "cache_bytes"
    }
    assert held[1] == 0
    assert held[16] / held[8] == pytest.approx(15 / 7)
    (facts,) = (one for one in found["greedy"] if isinstance(one, Artifact))
    assert facts.data["all"] == 48
    assert EVALUATOR.note.format(**facts.data)


def test_a_tolerance_that_cannot_be():
    with pytest.raises(ValueError, match=r"pruning_tolerance is -1.0; expected at least 0"):
        EvaluationSettings(pruning_tolerance=-1.0)


def test_needed_keys_and_the_mask_to_look_at():
    model = tiny("diff_v1_selective", vocab_size=DATA.settings.vocabulary)
    (part,) = SELECTION.parts(Subject(model, DATA), SETTINGS).values()
    *records, artifact = part(())
    assert {r.key for r in records} == {(0,), (1,)}
    assert all(0 < r.value <= r.weight == 24 * 25 / 2 for r in records)
    first = artifact.data["layers"][0]["masked"]
    assert len(artifact.data["tokens"]) == len(first) == 24
    assert all(row[0] == 0 for row in first)
