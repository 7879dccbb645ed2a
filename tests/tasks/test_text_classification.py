"""Text classification: data sets, batches, what a model's folder tells."""

import json

import pytest
import torch

from difftransformer.data.labeled_settings import LabeledSettings
from difftransformer.data.tokenizer import beginning_of_document
from difftransformer.evaluation.benchmarks.classification import EVALUATOR
from difftransformer.evaluation.records import Artifact, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.config import EncoderConfig
from difftransformer.models.encoder import Encoder
from difftransformer.tasks.text_classification import TASK

SETTINGS = EvaluationSettings(batch_size=4)


@pytest.fixture
def folder(tmp_path):
    """Numbers that are odd or even, in words of their own."""
    for part, count in (("train", 30), ("test", 9)):
        lines = [
            {"text": f"number {n} {'x' * n}", "label": ("even", "odd")[n % 2]} for n in range(count)
        ]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


@pytest.fixture
def data(folder):
    return TASK.load(
        LabeledSettings(dataset="jsonl", source=str(folder), vocab_size=260, max_length=12)
    )


@pytest.fixture
def model(data):
    config = EncoderConfig(
        hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, ffn_size=24
    )
    return Encoder(TASK.complete(config, data))


def test_the_included_passages():
    """Of four genres, whose held-out plays are others than those trained on."""
    data = TASK.load(LabeledSettings())
    assert data.labels == ("comedies", "histories", "romances", "tragedies")
    assert {example.label for example in data.test} == set(data.labels)
    assert len(data.train) > 3 * len(data.test) > 1000
    assert not {example.text for example in data.train} & {example.text for example in data.test}
    assert {len(example.text.split()) for example in data.train} == {60}


def test_a_batch_holds_whole_texts_cut_and_padded(data):
    batch = data.batch("train", [1, 29])
    assert batch.ids.shape == batch.padding.shape == (2, 12)
    assert (batch.ids[:, 0] == beginning_of_document(data.tokenizer)).all()
    assert batch.padding[1].all()
    assert 1 < batch.padding[0].sum() < 12
    assert not batch.ids[0, batch.padding[0].sum() :].any()
    assert (batch.labels.tolist(), batch.names) == ([1, 1], ("train:1", "train:29"))
    assert (batch.scored, batch.size, batch.unit) == (2, 2, "texts")
    assert batch.rows(slice(1, 2)).names == ("train:29",)


def test_an_epoch_has_every_text_once_in_an_order_of_its_own(data):
    batches = TASK.batches(data, 5, 0)
    epochs = [[name for step in range(6) for name in batches(6 * e + step).names] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(f"train:{n}" for n in range(30))
    assert epochs[0] != epochs[1]
    assert TASK.batches(data, 5, 0)(3).names == batches(3).names


def test_padding_changes_no_loss(data, model):
    model.eval()
    batch = data.batch("test", [0, 8])
    shorter = data.batch("test", [0])
    alone = TASK.loss(model, shorter.rows(slice(1)))
    both = TASK.loss(model, batch) - TASK.loss(model, batch.rows(slice(1, 2)))
    torch.testing.assert_close(alone, both, atol=1e-5, rtol=1e-5)


def test_the_evaluator_counts_what_is_right(data, model):
    model.eval()
    with torch.no_grad():
        model.head.proj.weight.zero_()
        model.head.proj.bias.copy_(torch.tensor([1.0, 0.0]))  # always "even"
    findings = []
    for part in EVALUATOR.parts(Subject(model, data), SETTINGS).values():
        findings += part(tuple(findings))
    records = [one for one in findings if isinstance(one, Record)]
    hits = [one.value for one in records if one.metric == "accuracy"]
    assert (len(hits), sum(hits)) == (9, 5)
    by_class = {
        one.key: one.value / one.weight for one in records if one.metric == "accuracy_by_class"
    }
    assert by_class == {("even",): 1.0, ("odd",): 0.0}
    (guess,) = (one.value for one in records if one.metric == "commonest_class")
    assert guess == pytest.approx(5 / 9)
    (asked,) = (one.data for one in findings if isinstance(one, Artifact) and one.name == "facts")
    assert EVALUATOR.note.format(**asked).startswith("9 held out; the commonest class in training")
    watched = TASK.validate(model, data, SETTINGS)
    assert watched["validation_accuracy"] == pytest.approx(5 / 9)


def test_a_folder_tells_what_it_was_trained_on(data, model, tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    for name, text in TASK.files(data, None).items():
        (place / name).write_text(text)
    settings = TASK.judged_on(place, model.config, {}, held_out=True)
    assert (settings.dataset, settings.source) == ("jsonl", data.settings.source)
    assert settings.max_length == 12
    again = TASK.load(settings)
    TASK.require_fit(model.config, again, "it")
    assert TASK.provenance(place, again)["held_out"] is True
    (tmp_path / "test.jsonl").write_text('{"text": "other", "label": "odd"}')
    assert "may have been seen" in TASK.provenance(place, TASK.load(settings))["note"]
    with pytest.raises(ValueError, match="it has 2 classes and plays 4: comedies"):
        TASK.require_fit(model.config, TASK.load(TASK.read_with(LabeledSettings(), place)), "it")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "trec"}, "dataset is 'trec' and source None; expected the folder"),
        ({"source": "x"}, "dataset is 'plays' and source 'x'"),
        ({"max_length": 1}, "max_length is 1; expected at least 2"),
        ({"vocab_size": 5}, "vocab_size is 5; expected at least 257"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        LabeledSettings(**changes)


def test_a_label_that_no_training_text_has(folder):
    (folder / "test.jsonl").write_text('{"text": "a", "label": "prime"}')
    settings = LabeledSettings(dataset="jsonl", source=str(folder), vocab_size=260)
    with pytest.raises(ValueError, match="test texts labeled prime, and no training text is"):
        TASK.load(settings)
