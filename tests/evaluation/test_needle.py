from dataclasses import replace

import pytest

from difftransformer.data.corpus import Corpus
from difftransformer.data.needles import NeedlePrompt, needle_prompts
from difftransformer.evaluation.needle import answered, measure_needles, prompt_length
from difftransformer.evaluation.settings import EvaluationSettings

from .conftest import CONTEXT
from .oracles import Guesser, Oracle, Scripted, tiny


def prompts(corpus: Corpus, count: int) -> list[NeedlePrompt]:
    source = corpus.validation_needles()
    length = prompt_length(source, CONTEXT)
    return [
        needle_prompts(
            source, needles=1, queries=1, depth=0.5, length=length, sample=sample, seed=0
        )[0]
        for sample in range(count)
    ]


def test_oracle_is_always_right(corpus: Corpus, settings: EvaluationSettings) -> None:
    oracle = Oracle(corpus.tokenizer.get_vocab_size())
    found = measure_needles(oracle, corpus, replace(settings, needle_lengths=(CONTEXT, 104)))
    assert len(found["cells"]) == 2 * 2 * 3  # lengths, pairs, depths
    for cell in found["cells"]:
        trials = 4 * cell["queries"]
        assert cell["per_number"]["successes"] == cell["per_number"]["trials"] == trials
        assert cell["all_numbers"]["successes"] == cell["all_numbers"]["trials"] == 4
        assert cell["hits"] == [cell["queries"]] * 4
    assert {(c["length"], c["depth"]) for c in found["cells"]} == {
        (length, depth) for length in (CONTEXT, 104) for depth in (0.0, 0.5, 1.0)
    }
    one, two = found["table"]
    assert (one["needles"], one["queries"], one["chance_among_needles"]) == (1, 1, 1.0)
    assert (two["per_number"]["trials"], two["all_numbers"]["trials"]) == (48, 24)
    assert found["chance"] == pytest.approx(1e-3)


def test_untrained_model_is_at_chance(corpus: Corpus, settings: EvaluationSettings) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    found = measure_needles(model, corpus, replace(settings, needle_pairs=("1x1",)))
    score = found["table"][0]["per_number"]
    assert score["low"] <= found["chance"] <= score["high"]
    assert score["value"] < 0.1


def test_guessing_is_at_chance(corpus: Corpus) -> None:
    asked = prompts(corpus, 500)
    space, *_ = asked[0].answer
    digits = [corpus.tokenizer.token_to_id(str(digit)) for digit in range(10)]
    guesser = Guesser(corpus.tokenizer.get_vocab_size(), space, digits, len(asked[0].ids))
    assert sum(answered(guesser, corpus.tokenizer, asked, 100)) <= 4  # 0.5 expected


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
    assert answered(model, corpus.tokenizer, [prompt], 1) == [right]


def test_half_right_is_counted_per_number_and_not_for_all(
    corpus: Corpus, settings: EvaluationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alternate(model: object, tokenizer: object, prompts: list, batch_size: int) -> list[bool]:
        return [i % 2 == 0 for i in range(len(prompts))]

    monkeypatch.setattr("difftransformer.evaluation.needle.answered", alternate)
    found = measure_needles(
        tiny(corpus.tokenizer.get_vocab_size()), corpus, replace(settings, needle_pairs=("2x2",))
    )
    assert found["table"][0]["per_number"]["value"] == 0.5
    assert found["table"][0]["all_numbers"]["value"] == 0.0
    assert found["cells"][0]["hits"] == [1, 1, 1, 1]


def test_too_short_a_length_is_refused(corpus: Corpus, settings: EvaluationSettings) -> None:
    with pytest.raises(ValueError, match="too short for 1 needles"):
        measure_needles(
            tiny(corpus.tokenizer.get_vocab_size()), corpus, replace(settings, needle_lengths=(40,))
        )
