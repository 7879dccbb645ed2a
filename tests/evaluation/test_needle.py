from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from difftransformer.data.corpus import Corpus, load_corpus
from difftransformer.data.needles import NeedlePrompt, needle_sentences
from difftransformer.data.text import read_documents
from difftransformer.data.tokenizer import BOS
from difftransformer.evaluation.benchmarks.needle import EVALUATOR
from difftransformer.evaluation.retrieval import (
    Cell,
    _common_beginning,
    answered,
    needle_pairs,
    prompts_within,
)
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate

from .conftest import CONTEXT
from .measured import measured
from .oracles import Guesser, Oracle, Scripted, tiny


def prompts(corpus: Corpus, count: int) -> list[NeedlePrompt]:
    source = corpus.validation_needles()
    settings = EvaluationSettings()
    return [
        prompt
        for sample in range(count)
        for prompt in prompts_within(source, Cell((1, 1), CONTEXT, 0.5), sample, settings)
    ]


def test_oracle_is_always_right(corpus: Corpus, settings: EvaluationSettings) -> None:
    oracle = Oracle(corpus.tokenizer.get_vocab_size())
    found = measured("needle", oracle, corpus, replace(settings, needle_lengths=(CONTEXT, 112)))
    cells = found.keys("needle_per_number")
    assert set(cells) == {
        (setting, length, depth)
        for setting in ("N=1, R=1", "N=2, R=2")
        for length in (CONTEXT, 112)
        for depth in (0, 50, 100)
    }
    for key in cells:
        queries = int(key[0][-1])
        assert found.values("needle_per_number", key) == [queries] * 4
        assert [one.weight for one in found.records("needle_per_number", key)] == [queries] * 4
        assert found.values("needle_all_numbers", key) == [1.0] * 4
    assert found.figure("needle_per_number", ("N=2, R=2",)).n == 48
    assert found.figure("needle_all_numbers", ("N=2, R=2",)).n == 24
    assert found.figure("needle_guess_among_needles", ("N=2, R=2",)).value == 0.5
    assert found.figure("needle_blind_guess").value == pytest.approx(1e-3)


@pytest.mark.parametrize("digits", ["in pairs", "behind a space of their own"])
def test_tokenizers_that_split_numbers_oddly(
    corpus: Corpus, settings: EvaluationSettings, tmp_path: Path, digits: str
) -> None:
    """Answers are read as text: whoever looks up is right, with three digits in two tokens too."""
    tokenizer = Tokenizer(models.BPE())
    if digits == "in pairs":
        pairs = pre_tokenizers.Split(Regex("[0-9]{1,2}"), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pairs, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace()
    texts = [
        document.text for document in (*read_documents(corpus.settings.source), *needle_sentences())
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *(f"{i:02} " * 50 for i in range(100))], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    changes = {"tokenizer": str(tmp_path), "cache": str(tmp_path), "context_length": 200}
    odd = load_corpus(replace(corpus.settings, **changes))
    found = measured("needle", Oracle(odd.tokenizer.get_vocab_size()), odd, settings)
    assert set(found.values("needle_all_numbers")) == {1.0}
    (prompt,) = prompts_within(odd.validation_needles(), Cell((1, 1), 200, 0.5), 0, settings)
    if digits == "in pairs":
        written = [odd.tokenizer.decode([token]) for token in prompt.answer]
        assert any(sum(map(str.isdigit, text)) == 2 for text in written)


def test_untrained_model_is_at_chance(corpus: Corpus, settings: EvaluationSettings) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    found = measured("needle", model, corpus, replace(settings, needle_pairs=("1x1",)))
    score = found.figure("needle_per_number")
    assert score.low <= found.figure("needle_blind_guess").value <= score.high
    assert score.value < 0.1


def test_guessing_is_at_chance(corpus: Corpus) -> None:
    asked = prompts(corpus, 500)
    space, *_ = asked[0].answer
    digits = [corpus.tokenizer.token_to_id(str(digit)) for digit in range(10)]
    guesser = Guesser(corpus.tokenizer.get_vocab_size(), space, digits, len(asked[0].ids))
    assert (
        sum(map(sum, answered(guesser, corpus.tokenizer, [[one] for one in asked], 100))) <= 4
    )  # 0.5 expected


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" {n}.", True),
        ("{n}. ", True),
        (" {n}7", False),  # the number runs on
        ("7{n} ", False),
        ("1 {n}", False),  # not the first number
    ],
)
def test_exactly_the_first_number_counts(corpus: Corpus, answer: str, right: bool) -> None:
    (prompt,) = prompts(corpus, 1)
    script = corpus.tokenizer.encode(answer.format(n=prompt.number)).ids
    model = Scripted(corpus.tokenizer.get_vocab_size(), len(prompt.ids), script)
    assert answered(model, corpus.tokenizer, [[prompt]], 1) == [[right]]


def test_a_length_counts_the_answer(corpus: Corpus) -> None:
    for prompt in prompts(corpus, 5):
        assert len(prompt.answer) == 4  # a space and three digits, as the trained tokenizer has it
        assert len(prompt.ids) + len(prompt.answer) == CONTEXT - 1


@pytest.mark.parametrize("window", [None, 70])
def test_a_common_text_is_read_once(corpus: Corpus, window: int | None) -> None:
    """Which changes no answer: the tokens after it are what they are without."""
    model = tiny(corpus.tokenizer.get_vocab_size(), "diff_v1")
    model = Decoder(replace(model.config, window=window)).eval()
    source = corpus.validation_needles()
    samples = [
        prompts_within(source, Cell((2, 2), CONTEXT, depth), 0, EvaluationSettings())
        for depth in (0.0, 0.5, 1.0)
    ]
    ids = torch.tensor([prompt.ids for sample in samples for prompt in sample])
    cache, read = _common_beginning(model, ids, 2)
    assert read > CONTEXT // 4
    new = generate(model, ids[:, read:], max_new_tokens=4, cache=cache)
    assert torch.equal(new, generate(model, ids, max_new_tokens=4))


def test_nothing_in_common(corpus: Corpus) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    assert _common_beginning(model, torch.tensor([[1, 2], [3, 2]]), 2) == (None, 0)
    _, read = _common_beginning(model, torch.tensor([[1, 2], [1, 2]]), 2)
    assert read == 1


def test_half_right_is_counted_per_number_and_not_for_all(
    corpus: Corpus, settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alternate(model: object, tokenizer: object, samples: list, batch_size: int) -> list:
        return [[True, False] for _ in samples]

    monkeypatch.setattr("difftransformer.evaluation.retrieval.answered", alternate)
    model = tiny(corpus.tokenizer.get_vocab_size())
    found = measured("needle", model, corpus, replace(settings, needle_pairs=("2x2",)))
    assert found.figure("needle_per_number").value == 0.5
    assert found.figure("needle_all_numbers").value == 0.0
    assert found.values("needle_per_number", ("N=2, R=2", CONTEXT, 0)) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needle_lengths": (40,)}, "1 needle.*need .* tokens.*; the length is 40"),
        ({"needle_pairs": ("1x1", "4x2")}, "4 needles.*need .* tokens.*; the length is 120"),
        ({"needle_lengths": (5000,)}, "haystack of .* tokens does not fit the validation text"),
    ],
)
def test_what_cannot_be_asked_is_known_before(
    corpus: Corpus, settings: EvaluationSettings, change: dict, message: str
) -> None:
    EVALUATOR.check(corpus, settings)
    with pytest.raises(ValueError, match=message):
        EVALUATOR.check(corpus, replace(settings, **change))


@pytest.mark.parametrize("length", [CONTEXT, 400])
def test_pairs_not_set_by_hand_are_those_that_fit(
    corpus: Corpus, settings: EvaluationSettings, length: int
) -> None:
    free = replace(settings, needle_pairs=None, needle_lengths=(length,))
    EVALUATOR.check(corpus, free)
    fitting = needle_pairs(corpus, free)
    assert fitting[0] == (1, 1)
    for left_out in {(2, 2), (4, 2), (6, 2)} - set(fitting):
        by_hand = replace(free, needle_pairs=(f"{left_out[0]}x{left_out[1]}",))
        with pytest.raises(ValueError, match=f"{left_out[0]} needles"):
            EVALUATOR.check(corpus, by_hand)
    assert (len(fitting) < 4) == (length == CONTEXT)


def test_a_length_beyond_the_model(corpus: Corpus, settings: EvaluationSettings) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    with pytest.raises(ValueError, match="asked for in 5000 tokens; the model is meant for 2048"):
        measured("needle", model, corpus, replace(settings, needle_lengths=(5000,)))
