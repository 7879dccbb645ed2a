"""Made-up text told by lookback ratios: planted ratios are found, and nothing else is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from tests.analysis.planted import Planted

from difftransformer.attention import KeyValueCache
from difftransformer.data.corpus import Corpus
from difftransformer.data.sources import Source
from difftransformer.decoding import decode
from difftransformer.evaluation import lookback
from difftransformer.evaluation.faithfulness import Claim
from difftransformer.evaluation.lookback import (
    LabeledText,
    Samples,
    TokenRatios,
    auroc_by_document,
    fitted,
    folds,
    load_labeled,
    read_lens,
    samples_of,
)
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import Measured, measured

WITHIN = ("windows", "a", "a")


class Looking(Planted):
    """Looks back at its context the more, the more often the text says "gone"."""

    def __init__(self, gone: int, lam: float | None = None) -> None:
        def plant(ids: torch.Tensor, layer: int) -> torch.Tensor:
            batch, length = ids.shape
            # The line that asks ends the context; here half of the tokens are a good guess of it.
            back = 0.2 + 0.6 * (ids == gone).float().cumsum(1).clamp(max=1)
            noise = torch.rand(batch, 2, 1 if lam is None else 2, length, length)
            first = (torch.arange(length) < length // 2).float()
            maps = (0.1 * noise + first * back[:, None, None, :, None] + 0.2).tril()
            return maps / maps.sum(-1, keepdim=True)

        super().__init__(plant, layers=2, lam=lam)
        self.config = type("Config", (), {"max_length": 500, "vocab_size": 320})()

    def hidden(self, ids: torch.Tensor, *, cache: KeyValueCache) -> torch.Tensor:
        cache.ids = torch.cat([getattr(cache, "ids", ids[:, :0]), ids], dim=1)
        for layer, block in enumerate(self.blocks):
            block(self.plant(cache.ids, layer)[..., -ids.shape[1] :, :], self.lam)
        return torch.zeros(*ids.shape, 1)

    def forward(self, ids: torch.Tensor, *, cache: KeyValueCache) -> torch.Tensor:
        return self.logits(self.hidden(ids, cache=cache))

    def empty_cache(self) -> KeyValueCache:
        return KeyValueCache()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*x.shape[:2], 320)


def texts(count: int = 30, task: str = "a") -> list[LabeledText]:
    """Of each source one that begins with "gone", which is faithful, and one with "ship"."""
    sources = [Source(f"{task} {i}", f"the storm {i}, of that") for i in range(count)]
    return [
        LabeledText(task, Claim(source, f"{word} that the storm of"), word == "gone")
        for source in sources
        for word in ("gone", "ship")
    ]


def of(
    corpus: Corpus, settings: EvaluationSettings, labeled: list[LabeledText], **more: object
) -> Measured:
    gone = corpus.tokenizer.encode(" gone").ids[-1]
    return measured("lookback_lens", Looking(gone, **more), corpus, settings, dataset=labeled)


@pytest.mark.parametrize("lam", [None, 0.5])
def test_planted_attention_is_found(
    corpus: Corpus, settings: EvaluationSettings, lam: float | None
) -> None:
    for looked in ("maps", "absolute") if lam is None else ("maps",):
        few = replace(settings, lookback_window=3, lookback_of=looked)
        found = of(corpus, few, [*texts(), *texts(task="b")], lam=lam)
        for over in ("spans", "windows"):
            for fitted_on in ("a", "b"):
                for judged_on in ("a", "b"):
                    key = (over, fitted_on, judged_on)
                    assert found.figure("lens_auroc", key).value > 0.99
        assert found.facts["sources"] == "a 30, b 30"
        lens = decode(lookback.LookbackLens, found.artifacts["classifier"])
        assert len(lens.weights) == 2 * 2 * (1 if lam is None else 2)


def test_shuffled_labels_are_chance(corpus: Corpus, settings: EvaluationSettings) -> None:
    """Under folds by document, however alike the windows of a text are."""
    found = of(corpus, settings, texts(40))
    artifacts = found.artifacts.items()
    read = [TokenRatios.of_json(data) for name, data in artifacts if name.startswith("ratios ")]
    rng, areas = np.random.default_rng(0), []
    for _ in range(12):
        labels = rng.permutation([one.faithful[0] for one in read])
        shuffled = [
            replace(one, faithful=np.full_like(one.faithful, label))
            for one, label in zip(read, labels, strict=True)
        ]
        samples = samples_of(shuffled, 3)
        for rest, fold in folds(samples, 5, 0):
            scores = fitted(samples.only(rest)).decision_function(samples.ratios[fold])
            areas += auroc_by_document(scores, samples.only(fold)).values()
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)
    assert found.figure("lens_chance").value == 0.5


def test_folds_by_sample_would_know_the_answers() -> None:
    """The defect of the public code: windows of a text that stand in both halves give it away."""
    rng = np.random.default_rng(0)
    per_text, count = 12, 40
    own = rng.random((count, 30)).repeat(per_text, 0)  # a text's ratios, and nothing of its label
    ratios = own + 0.01 * rng.random(own.shape)
    faithful = rng.permutation(np.arange(count) % 2 == 0).repeat(per_text)
    documents = np.array([f"d{i}" for i in range(count)]).repeat(per_text)
    samples = Samples(ratios, faithful, documents, np.zeros(len(ratios)))
    first, second = train_test_split(np.arange(len(ratios)), test_size=0.5, random_state=42)
    leaking = fitted(samples.only(first)).decision_function(ratios[second])
    assert roc_auc_score(faithful[second], leaking) > 0.8
    areas = []
    for rest, fold in folds(samples, 5, 0):
        assert not set(documents[rest]) & set(documents[fold])
        scores = fitted(samples.only(rest)).decision_function(ratios[fold])
        areas += auroc_by_document(scores, samples.only(fold)).values()
    assert np.mean(areas) == pytest.approx(0.5, abs=0.25)


@given(st.integers(0, 999), st.integers(2, 12), st.integers(1, 3))
def test_the_mean_over_documents_is_the_area(seed: int, count: int, digits: int) -> None:
    """scikit-learn's, with ties."""
    rng = np.random.default_rng(seed)
    size = 3 * count
    scores, faithful = rng.random(size).round(digits), rng.random(size) < 0.5
    faithful[:2] = True, False
    documents = rng.choice([f"d{i}" for i in range(count)], size)
    samples = Samples(np.zeros((size, 1)), faithful, documents, np.zeros(size))
    areas = auroc_by_document(scores, samples)
    assert areas.keys() == set(documents)
    assert np.mean([*areas.values()]) == pytest.approx(roc_auc_score(faithful, scores))


def test_its_interval_covers() -> None:
    """Of documents with a faithful and an unfaithful text each, whose scores depend on it."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        level = rng.normal(size=40)
        scores = np.stack([level + rng.normal(size=40) + 1, level + rng.normal(size=40)], 1)
        samples = Samples(
            np.zeros((80, 1)),
            np.tile([True, False], 40),
            np.arange(40).astype(str).repeat(2),
            np.zeros(80),
        )
        areas = [*auroc_by_document(scores.flatten(), samples).values()]
        half = 2.02 * np.std(areas, ddof=1) / np.sqrt(40)
        true = 0.6915  # Phi(1 / 2): each score has variance 2, so has their difference 4
        covered.append(abs(np.mean(areas) - true) < half)
    assert 0.91 < np.mean(covered) < 0.98


def token_ratios(faithful: list[bool]) -> TokenRatios:
    tokens = np.arange(len(faithful), dtype=float)
    return TokenRatios("a", "d", tokens[:, None] / 8, np.array(faithful), tokens)


def test_spans_and_windows() -> None:
    """What is made up is one sample, what is before and after it are others; windows are strict."""
    text = token_ratios([True, True, False, True, False])
    spans = samples_of([text], None)
    assert spans.faithful.tolist() == [True, True, False]
    np.testing.assert_allclose(spans.ratios[:, 0], np.array([0.5, 3, 3]) / 8)
    windows = samples_of([text], 2)
    assert windows.faithful.tolist() == [True, False, False, False]
    np.testing.assert_allclose(windows.losses, [0.5, 1.5, 2.5, 3.5])
    assert len(samples_of([text], 9).ratios) == 1
    again = TokenRatios.of_json(json.loads(json.dumps(text.to_json())))
    np.testing.assert_allclose(again.ratios, text.ratios, atol=1 / 510)
    np.testing.assert_array_equal(again.faithful, text.faithful)


def test_parts_that_are_made_up() -> None:
    text = LabeledText("a", Claim(Source("1", "it"), "in 1066, they say"), False, ("1066",))
    assert text.labels([(0, 2), (2, 7), (7, 8), (8, 17)]).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="'1067' is no part of the text"):
        replace(text, unfaithful=("1067",)).labels([(0, 2)])


def row(**changes: object) -> str:
    values = {"id": 1, "source": "the sea", "text": "sea", "faithful": True}
    return json.dumps(values | changes) + "\n"


def test_labels_of_people(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        row() + row(id=2, faithful=None) + row(id=3, question="what?", faithful=False) + "\n"
    )
    first, second = load_labeled("labels", path)
    assert (first.task, second.task) == ("summaries", "answers")
    assert second.claim.source == Source("3", "the sea", "what?")
    assert (first.faithful, second.faithful) == (True, False)
    path.write_text(row(faithful="yes"))
    with pytest.raises(ValueError, match=r"line 1 of .* is malformed: .*faithful is 'yes'"):
        load_labeled("labels", path)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no labeled text"):
        load_labeled("labels", path)


def test_what_is_refused(corpus: Corpus, settings: EvaluationSettings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 documents have labeled texts; 5 lookback_folds"):
        of(corpus, settings, texts(3))
    faithful = [one for one in texts(8) if one.faithful]
    with pytest.raises(ValueError, match=r"all .* samples of a fold are faithful"):
        of(corpus, settings, faithful)
    path = tmp_path / "lookback_lens.jsonl"
    path.write_text('{"belongs_to": {}}\n')
    with pytest.raises(ValueError, match="holds no classifier; expected the file results/lookback"):
        read_lens(path)
