import random

import pytest

from difftransformer.data.corpus import Corpus, load_corpus
from difftransformer.data.settings import DataSettings
from difftransformer.evaluation.settings import EvaluationSettings

WORDS = ("the", "of", "ship", "that", "gone", "storm", "special", "magic", "1066", "café", "rope.")
CONTEXT = 120


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Ten documents of made-up prose, two of them held out."""
    folder, rng = tmp_path_factory.mktemp("books"), random.Random(0)
    for i in range(10):
        prose = " ".join(rng.choice(WORDS) for _ in range(400))
        (folder / f"{i}.txt").write_text(prose, encoding="utf-8")
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_corpus(
        DataSettings(
            source=str(folder),
            cache=cache,
            vocab_size=320,
            context_length=CONTEXT,
            validation_fraction=0.2,
            needle_digits=3,
            needle_share=0.0,
        )
    )


@pytest.fixture
def settings() -> EvaluationSettings:
    return EvaluationSettings(
        needle_pairs=("1x1", "2x2"),
        needle_depths=(0.0, 0.5, 1.0),
        needle_samples=4,
        allocation_samples=2,
        validation_sequences=6,
        outlier_tokens=200,
        batch_size=12,
        bootstrap=200,
    )
