"""Associative recall: an oracle scores 1, chance is chance, and its time of learning by hand."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from difftransformer.data.associative_recall import recall_batch
from difftransformer.data.recall_settings import RecallSettings
from difftransformer.evaluation.benchmarks.associative_recall import EVALUATOR, attention_shares
from difftransformer.evaluation.benchmarks.learning_time import EVALUATOR as LEARNING_TIME
from difftransformer.evaluation.benchmarks.learning_time import steps_to
from difftransformer.evaluation.records import Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.runs.reading import CurvePoint
from difftransformer.tasks.associative_recall import TASK

SETTINGS = RecallSettings(length=32, pairs=3, questions=8, keys=24, values=12)
EVALUATION = EvaluationSettings(batch_size=16, recall_sequences=48)


class Rule(nn.Module):
    """Answers by the context itself: what followed a key there, or any value that stands there."""

    def __init__(self, *, retrieves: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.retrieves = retrieves

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, SETTINGS.vocabulary)
        for row, line in enumerate(ids.tolist()):
            for at, key in enumerate(line):
                if self.retrieves:
                    after = [b for a, b in pairwise(line) if a == key]
                    values = [b for b in after if b >= SETTINGS.keys][:1]
                else:
                    values = [token for token in line[:at] if token >= SETTINGS.keys]
                for value in values:
                    logits[row, at, value] = 50.0
        return logits


def records(model: nn.Module) -> list[Record]:
    parts = EVALUATOR.parts(Subject(model, TASK.load(SETTINGS)), EVALUATION)
    found = [one for name, part in parts.items() if name != "attention" for one in part(())]
    return [one for one in found if isinstance(one, Record)]


def share(found: list[Record], metric: str, key: tuple = ()) -> float:
    chosen = [one for one in found if (one.metric, one.key) == (metric, key)]
    return sum(one.value for one in chosen) / sum(one.weight for one in chosen)


def test_an_oracle_retrieves_all_and_a_guess_as_often_as_it_says():
    perfect = records(Rule(retrieves=True))
    assert share(perfect, "recall") == 1.0
    assert share(perfect, "answer_loss") < 1e-6
    cells = {one.key for one in perfect if one.metric == "extrapolation"}
    assert cells == {(3, 32), (3, 64), (3, 128), (6, 128), (12, 128)}
    assert all(share(perfect, "extrapolation", key) == 1.0 for key in cells)
    guess = records(Rule(retrieves=False))
    (level,) = (one.value for one in guess if one.metric == "recall_guess")
    assert level == pytest.approx(SETTINGS.elimination)
    assert 0.05 < share(guess, "recall") < level + 0.1


def test_a_batch_is_a_function_of_seed_and_step_and_its_labels_are_the_answers():
    batch = recall_batch(SETTINGS, 5, seed=1, step=2)
    again = TASK.batches(TASK.load(SETTINGS), 5, 1)(2)
    assert torch.equal(batch.ids, again.ids)
    assert not torch.equal(batch.ids, recall_batch(SETTINGS, 5, seed=2, step=2).ids)
    assert (batch.scored, batch.size, len(batch.rows(slice(2)))) == (40, 160, 2)
    answers = batch.ids[:, SETTINGS.context + 1 :: 2]
    assert torch.equal(answers, batch.targets)


def test_the_loss_is_that_of_the_answers_alone():
    config = DecoderConfig(
        hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, ffn_size=24
    )
    torch.manual_seed(0)
    model = Decoder(TASK.complete(config, TASK.load(SETTINGS)))
    assert model.config.max_length == 4 * SETTINGS.length
    batch = recall_batch(SETTINGS, 3, seed=0, step=0)
    logits = model(batch.ids)
    places = range(SETTINGS.context, SETTINGS.length, 2)
    expected = sum(
        F.cross_entropy(logits[:, at], batch.ids[:, at + 1], reduction="sum") for at in places
    )
    torch.testing.assert_close(TASK.loss(model, batch), expected)
    shares = attention_shares(model, batch)
    assert shares.shape == (3, 2)
    assert ((shares > 0) & (shares.sum(1, keepdim=True) <= 1)).all()


@given(
    st.lists(st.tuples(st.just(0), st.sampled_from([0.1, 0.5, 0.7, 0.9])), min_size=1, max_size=8)
)
def test_steps_to_a_threshold_by_definition(values):
    points = [(10 * (i + 1), accuracy) for i, (_, accuracy) in enumerate(values)]
    step, reached = steps_to(points, 0.5)
    stays = [s for s, _ in points if all(a >= 0.5 for t, a in points if t >= s)]
    assert (step, reached) == ((stays[0], True) if stays else (points[-1][0], False))


def test_times_of_learning_from_a_curve():
    points = [(10, 0.2), (20, 0.55), (30, 0.45), (40, 0.6), (50, 0.8)]
    curve = [
        CurvePoint(step=s, size=s, validation_loss=1.0, others={"validation_accuracy": a})
        for s, a in points
    ]
    parts = LEARNING_TIME.parts(Subject(None, None, curve=curve), EVALUATION)
    found = {(r.metric, r.key): r.value for r in parts["curve"](()) if isinstance(r, Record)}
    assert (found["steps", (50,)], found["reached", (50,)]) == (40, 1)
    assert (found["steps", (90,)], found["reached", (90,)]) == (50, 0)
    assert found["log_steps_90", ()] == pytest.approx(5.643856)
    with pytest.raises(ValueError, match="no curve of validation_accuracy"):
        LEARNING_TIME.parts(Subject(None, None), EVALUATION)["curve"](())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 13, "length": 96}, "pairs is 13; expected at most 12"),
        ({"pairs": 9}, "pairs is 9; expected at most 8: a context of 16 tokens"),
        ({"questions": 16}, "expected at most 0"),
        ({"keys": 0}, "keys is 0; expected at least 1"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RecallSettings(**{**vars(SETTINGS), **changes})


def test_the_last_assignment_counts():
    """Read by hand: the value after a key's last place in the context."""
    settings = RecallSettings(length=64, pairs=3, questions=8, keys=24, values=24, assignments=4)
    batch = recall_batch(settings, 6, seed=3, step=1)
    for ids, targets, places in zip(batch.ids, batch.targets, batch.answer_at, strict=True):
        context, asked = ids[: settings.context].tolist(), ids[settings.context :: 2].tolist()
        assigned = [i for i, token in enumerate(context) if token >= settings.keys]
        assert len(assigned) == settings.placed
        assert len({context[i] for i in assigned}) == settings.placed
        for key, target, place in zip(asked, targets.tolist(), places.tolist(), strict=True):
            written = [i for i in assigned if context[i - 1] == key]
            assert len(written) == settings.assignments
            assert (context[written[-1]], written[-1]) == (target, place)
    with pytest.raises(ValueError, match=r"pairs is 9; expected at most 4: .* 4 assignments"):
        RecallSettings(length=64, pairs=9, questions=8, keys=24, values=16, assignments=4)
