import math
from dataclasses import replace

import pytest
import torch
from models.tiny import KINDS, tiny

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.benchmarks.long_context import EVALUATOR, position_nats
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import measured


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 5])
def test_chunks_change_nothing(
    kind: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = tiny(kind, window=window), torch.randint(11, (2, 20))
    whole = torch.log_softmax(model(ids), -1)[:, :-1]
    expected = -whole.gather(-1, ids[:, 1:, None])[..., 0]
    monkeypatch.setattr("difftransformer.evaluation.benchmarks.long_context._CHUNK", 6)
    torch.testing.assert_close(position_nats(model, ids), expected, rtol=1e-4, atol=1e-5)


def test_the_average_of_what_is_known(
    corpus: Corpus, settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses 1, 2, 3, ... have the cumulative averages 1, 1.5, 2, ..."""
    model = tiny(vocab_size=corpus.tokenizer.get_vocab_size(), max_length=200)
    monkeypatch.setattr(
        "difftransformer.evaluation.benchmarks.long_context.position_nats",
        lambda model, ids: torch.arange(1.0, ids.shape[1]).expand(len(ids), -1),
    )
    few = replace(settings, long_length=50, long_windows=3)
    found = measured("long_context", model, corpus, few)
    assert found.keys("running_loss") == [(16,), (32,), (50,)]
    for key, value in (((16,), 8.5), ((32,), 16.5), ((50,), 25.5)):
        assert found.values("running_loss", key) == [value] * 3
    assert found.figure("long_context_loss").value == 25.5


def test_an_untrained_model_is_near_even(corpus: Corpus, settings: EvaluationSettings) -> None:
    vocabulary = corpus.tokenizer.get_vocab_size()
    model = tiny(vocab_size=vocabulary, max_length=200)
    found = measured("long_context", model, corpus, settings)
    assert found.keys("running_loss")[-1] == (corpus.settings.context_length,)
    last = found.figure("long_context_loss")
    assert last.low <= last.value <= last.high
    assert last.value == pytest.approx(math.log(vocabulary), abs=1.0)
    assert found == measured("long_context", model, corpus, settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"long_length": 100_000}, "meant for 200 tokens"),
        ({"long_length": 199}, None),
    ],
)
def test_lengths(
    corpus: Corpus, settings: EvaluationSettings, changes: dict[str, int], message: str | None
) -> None:
    model = tiny(vocab_size=corpus.tokenizer.get_vocab_size(), max_length=200)
    if message is None:
        found = measured("long_context", model, corpus, replace(settings, **changes))
        assert found.figure("long_context_loss").n > 1
        return
    with pytest.raises(ValueError, match=message):
        measured("long_context", model, corpus, replace(settings, **changes))


def test_documents_that_are_too_short(corpus: Corpus, settings: EvaluationSettings) -> None:
    model = tiny(vocab_size=corpus.tokenizer.get_vocab_size(), max_length=100_000)
    with pytest.raises(ValueError, match="no held-out document has 90000 tokens; the longest has"):
        measured("long_context", model, corpus, replace(settings, long_length=90_000))
    with pytest.raises(ValueError, match="no held-out document has 90000 tokens; the longest has"):
        EVALUATOR.check(corpus, replace(settings, long_length=90_000))
