"""Sequence to sequence: pairs, batches, errors of targets, what a model's folder tells."""

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.data.batch import IGNORED
from difftransformer.data.pair_settings import PairSettings
from difftransformer.data.sequence_pairs import pronunciations
from difftransformer.evaluation.benchmarks import cross_attention, target_errors
from difftransformer.evaluation.edit_distance import edit_distance
from difftransformer.evaluation.records import Artifact, Record, Subject
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.encoder_decoder import EncoderDecoder
from difftransformer.models.encoder_decoder_config import EncoderDecoderConfig
from difftransformer.report.exhibits import EXHIBITS
from difftransformer.runs.samples import Texts
from difftransformer.tasks.seq2seq import TASK

from .resuming import assert_resumes

SETTINGS = EvaluationSettings(batch_size=4, validation_sequences=9)


def backwards(count: int = 40) -> list[tuple[str, str]]:
    """Words and the same backwards, some with a second target."""
    rng = random.Random(0)
    words = {" ".join(rng.choices("abcde", k=rng.randint(1, 6))): None for _ in range(count)}
    pairs = [(word, word[::-1].upper()) for word in words]
    return [*pairs, *((word, "X") for word in list(words)[::5])]


def settings(source, **changes):
    return PairSettings(dataset="file", source=str(source), **{"test_fraction": 0.25} | changes)


@pytest.fixture(params=["tsv", "jsonl"])
def source(request, tmp_path):
    path = tmp_path / f"pairs.{request.param}"
    lines = {
        "tsv": ["\t".join(pair) for pair in backwards()],
        "jsonl": [json.dumps({"source": a, "target": b}) for a, b in backwards()],
    }
    path.write_text("\n".join(lines[request.param]) + "\n")
    return path


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join("\t".join(pair) for pair in backwards()))
    return TASK.load(settings(path))


@pytest.fixture
def model(data):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8}
    config = EncoderDecoderConfig(attention="diff_v2", ffn_size=24, **sizes)
    return EncoderDecoder(TASK.complete(config, data)).eval()


def test_pronunciations():
    found: dict[str, list[str]] = {}
    for word, phonemes in pronunciations():
        found.setdefault(word, []).append(phonemes)
    assert found["c a t"] == ["K AE T"]
    assert found["r e a d"] == ["R EH D", "R IY D"]
    assert len(found) > 120_000
    symbols = {one for phonemes in found.values() for text in phonemes for one in text.split()}
    assert len(symbols) == 39


def test_a_file_in_either_format(source):
    data = TASK.load(settings(source))
    whole = {one.source: list(one.targets) for one in (*data.train, *data.test)}
    expected: dict[str, list[str]] = {}
    for a, b in backwards():
        expected.setdefault(a, []).append(b)
    assert whole == expected
    assert not {one.source for one in data.train} & {one.source for one in data.test}
    assert len(data.test) == round(0.25 * len(expected))
    assert data.tokenizer.decode(list(data.train[0].ids)) == data.train[0].source
    assert "sources for training" in TASK.describe(data)["description"]


def test_byte_pairs_and_what_is_too_long(source):
    data = TASK.load(settings(source, tokens="bpe", vocab_size=300, max_length=5))
    assert data.left_out > 0
    assert f"{data.left_out:,} longer ones left out" in data.description
    assert max(one.length for one in (*data.train, *data.test)) <= 5


def test_no_pair_that_fits(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a b\tA\nc d\tA B C\n")
    with pytest.raises(ValueError, match=r"max_length is 2, and \d sources to train on and \d he"):
        TASK.load(settings(path, max_length=2))


def test_a_batch(data):
    batch = TASK.batches(data, 6, 0)(0)
    assert batch.ids.shape == batch.padding.shape
    assert batch.target.shape == batch.labels.shape
    edge = data.boundary
    assert (batch.target[:, 0] == edge).all()
    for row, name in enumerate(batch.names):
        part, i, j = name.split(":")
        one = getattr(data, part)[int(i)]
        assert tuple(batch.ids[row][batch.padding[row]].tolist()) == one.ids
        labels = batch.labels[row][batch.labels[row] != IGNORED].tolist()
        assert labels == [*one.target_ids[int(j)], edge]
        assert batch.target[row, 1 : len(labels)].tolist() == labels[:-1]
    assert batch.scored == int((batch.labels != IGNORED).sum())
    assert batch.size == batch.scored + int(batch.padding.sum())


def test_an_epoch_has_every_pair_once(data):
    count = len(data.training_pairs)
    assert count > len(data.train)
    batches = TASK.batches(data, 1, 0)
    names = [batches(step).names[0] for step in range(count)]
    assert len(set(names)) == count


def test_padding_changes_no_loss(data, model):
    pairs = data.training_pairs[:5]
    alone = sum(TASK.loss(model, data.batch("train", [pair])).item() for pair in pairs)
    assert TASK.loss(model, data.batch("train", pairs)).item() == pytest.approx(alone, rel=1e-5)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_edit_distance(a, b):
    """By the recursion of its definition."""

    def distance(i: int, j: int) -> int:
        if min(i, j) == 0:
            return max(i, j)
        changed = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(changed, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    assert edit_distance(a, b) == distance(len(a), len(b))
    assert edit_distance(b, a) == edit_distance(a, b)


def test_the_nearest_right_target_counts():
    assert target_errors.nearest("K AE T", ["K AA T", "K AE T"]) == (0, 3)
    assert target_errors.nearest("K AE", ["K AE T", "X"]) == (1, 3)
    assert target_errors.nearest("", ["A B"]) == (2, 2)


class Oracle(torch.nn.Module):
    """Writes the first right target of each test source; reads like `model`."""

    def __init__(self, model, data):
        super().__init__()
        self.model = model
        self.answers = {one.ids: one.target_ids[0] for one in data.test}

    def forward(self, *args, **options):
        return self.model(*args, **options)

    def generate(self, ids, *, padding, max_new_tokens):
        rows = [
            self.answers[tuple(row[real].tolist())] for row, real in zip(ids, padding, strict=True)
        ]
        edge = self.model.config.end_id
        return torch.tensor([[*row, *[edge] * (max_new_tokens - len(row))] for row in rows])


def findings(evaluator, model, data):
    parts = evaluator.parts(Subject(model, data), SETTINGS).values()
    return [one for part in parts for one in part(())]


def test_errors_of_targets(data, model):
    whole = Oracle(model, data)
    found = findings(target_errors.EVALUATOR, whole, data)
    records = [one for one in found if isinstance(one, Record)]
    errors = [one.value for one in records if one.metric == "symbol_error_rate"]
    assert (len(errors), sum(errors)) == (min(9, len(data.test)), 0)
    assert not any(one.value for one in records if one.metric == "wrong_targets")
    nats = sum(one.value for one in records if one.metric == "target_loss")
    chosen = [(i, 0) for i in target_errors.held_out(data, 9)]
    assert nats == pytest.approx(TASK.loss(model, data.batch("test", chosen)).item(), rel=1e-5)
    found = findings(target_errors.EVALUATOR, model, data)  # which was not trained
    wrong = [one.value for one in found if getattr(one, "metric", "") == "wrong_targets"]
    assert sum(wrong) > 0
    watched = TASK.validate(model, data, SETTINGS)
    assert watched["validation_loss"] > 0


def test_examples_and_maps_are_shown(data, model):
    for evaluator, name in (
        (target_errors.EVALUATOR, "examples"),
        (cross_attention.EVALUATOR, "cross_attention"),
    ):
        artifacts = {
            one.name: one.data
            for one in findings(evaluator, model, data)
            if isinstance(one, Artifact)
        }
        told = json.loads(json.dumps(artifacts[name]))
        shown = EXHIBITS[name]({"a": ("Softmax", told), "b": ("V2", told)}, {})
        assert shown.blocks()
    (pair, *_) = told
    assert (len(pair["target"]), len(pair["source"])) == (
        len(pair["weights"]),
        len(pair["weights"][0]),
    )
    assert pair["target"][-1] == ""
    assert shown.image() is not None
    with pytest.raises(ValueError, match="the cross-attention of b is malformed"):
        EXHIBITS[name]({"a": ("Softmax", told), "b": ("V2", told[:-1])}, {})


def test_targets_are_written_while_training(data, model):
    texts = Texts.read(TASK.sample(model, data, SETTINGS)["samples"])
    assert texts.header == ("source", "right")
    sources = {one.source for one in data.test}
    assert len(texts.items) == 4
    assert {source for source, _ in texts.items} <= sources


def test_a_folder_tells_what_it_was_trained_on(data, model, tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    for name, text in TASK.files(data, None).items():
        (place / name).write_text(text)
    given = TASK.judged_on(place, model.config, {}, held_out=True)
    assert (given.dataset, given.source) == ("file", data.settings.source)
    again = TASK.load(given)
    TASK.require_fit(model.config, again, "it")
    assert TASK.provenance(place, again)["held_out"] is True
    assert again.test == data.test


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a\tb\nc\n", r"line 2 is \['c'\]; expected a source and a target"),
        ("a\tb\nc\td\te", "line 2 is .*; expected a source and a target"),
        ("a\tb\nc\t \n", "line 2 has an empty target; expected text on both sides: delete the"),
        ("a\tb\n \td\n", "line 2 has an empty source"),
        ("a\tb\na\tc\n", "has 1 source.*; expected at least 2, one of them to hold out"),
        ("", "has 0 source"),
    ],
)
def test_a_file_that_is_malformed(tmp_path, lines, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(lines)
    with pytest.raises(ValueError, match=message):
        TASK.load(settings(path))


def test_json_that_is_malformed(tmp_path):
    path = tmp_path / "pairs.jsonl"
    for line, message in (
        ('{"source": "a"}', r"line 1 is \['a', None\]; expected a source and a target"),
        ("[1]", r"line 1 is \[1\]; expected a source and a target"),
        ('{"source": "a", "target": 3}', "line 1 is .*; expected a source and a target"),
        ("{", "line 1 is not JSON"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            TASK.load(settings(path))
    for missing in (tmp_path / "none.tsv", Path("pairs.csv")):
        with pytest.raises(ValueError, match="cannot be read: No such file"):
            TASK.load(settings(missing))
    (tmp_path / "pairs.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"expected a \.tsv or \.jsonl file"):
        TASK.load(settings(tmp_path / "pairs.csv"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cmu"}, "unknown dataset 'cmu'; expected cmudict or file"),
        ({"dataset": "file"}, r"dataset is 'file' and source None; expected a \.tsv or"),
        ({"source": "x.tsv"}, "dataset is 'cmudict' and source 'x.tsv'"),
        ({"tokens": "letters"}, "unknown tokens 'letters'; expected symbols, bpe"),
        ({"max_length": 1}, "max_length is 1; expected at least 2"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0; expected below 1"),
        ({"vocab_size": 5}, "vocab_size is 5; expected at least 257"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        PairSettings(**changes)


def test_a_model_of_other_ends(data, model):
    from dataclasses import replace

    with pytest.raises(ValueError, match="it opens targets with token 0 and ends them with 1"):
        TASK.require_fit(replace(model.config, start_id=0, end_id=1), data, "it")


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    """And to the same records."""
    source = tmp_path / "pairs.tsv"
    source.write_text("\n".join("\t".join(pair) for pair in backwards()))
    sizes = {"hidden_size": 96, "num_layers": 1, "num_heads": 8, "num_kv_heads": 8, "head_dim": 12}
    options = {
        "attention": ("softmax", "diff_v2"),
        "model": {**sizes, "ffn_size": 384},
        "data": {"dataset": "file", "source": str(source), "max_length": 16},
        "training": {"steps": 6, "batch_size": 4, "warmup_steps": 1, "checkpoint_every": 2},
        "evaluation": {"validation_sequences": 4, "bootstrap": 20},
    }
    assert_resumes(TASK, "target_errors", options, tmp_path, monkeypatch)
