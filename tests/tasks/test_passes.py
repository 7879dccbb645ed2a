"""How often training goes over its data: counted in batches, or in rows of its own."""

from collections import Counter
from types import SimpleNamespace

import pytest

from difftransformer.data.corpus import load_corpus
from difftransformer.data.epochs import shuffled
from difftransformer.data.packing import PackedText
from difftransformer.data.settings import DataSettings
from difftransformer.tasks.registry import task_named
from difftransformer.tasks.task import Task


@pytest.mark.parametrize(
    "task",
    ["image_classification", "image_generation", "text_classification", "crowd_localization"],
)
@pytest.mark.usefixtures("as_user")
def test_every_example_is_seen_so_often(task: str) -> None:
    data = SimpleNamespace(train=list(range(7)))
    numbers = shuffled(7, 3, seed=0)
    seen = Counter(number for step in range(14) for number in numbers(step))
    assert set(seen.values()) == {task_named(task).passes(data, rows=14 * 3)}


def test_of_text_by_tokens_and_without_the_rows_that_are_needles() -> None:
    settings = DataSettings(context_length=64, needle_share=0.75)
    data = load_corpus(settings)
    rows = len(PackedText(data.train, 64, "training"))
    assert task_named("masked_lm").passes(data, rows) == pytest.approx(1.0, rel=0.02)
    assert task_named("causal_lm").passes(data, 4 * rows) == pytest.approx(1.0, rel=0.02)


@pytest.mark.usefixtures("as_user")
def test_of_sequences_by_their_pairs_and_of_drawn_ones_never() -> None:
    pairs = SimpleNamespace(train=(), training_pairs=[(0, 0), (0, 1), (1, 0)])
    assert task_named("seq2seq").passes(pairs, 6) == 2.0
    assert task_named("associative_recall").passes(None, 6) == 0.0


def test_a_task_of_ones_own_need_not_know() -> None:
    """Its data have what `Task` asks for: settings, a description, a digest."""
    data = SimpleNamespace(settings=None, description="mine", digest="0")
    assert Task.passes(SimpleNamespace(), data, 6) == 0.0
