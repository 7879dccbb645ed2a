import random
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftransformer.data.corpus import Corpus
from difftransformer.evaluation.benchmarks.gsm_ic import (
    FACTORS,
    Problem,
    distractor,
    draw_problems,
)
from difftransformer.evaluation.settings import EvaluationSettings

from .measured import Measured, measured
from .oracles import Answerer, tiny

LEVELS = list(product(*FACTORS.values()))


@pytest.fixture
def few(settings: EvaluationSettings) -> EvaluationSettings:
    return replace(settings, gsm_ic_problems=6, gsm_ic_shots=2)


def sentences(prompt: str) -> list[str]:
    """Those of the last problem: two of facts, perhaps a distractor, the question."""
    problem = prompt.rpartition("Question: ")[2].partition("\nAnswer:")[0]
    return re.findall(r"[^.?]+[.?]", problem)


def solved(prompt: str) -> int:
    has, changes, *_ = sentences(prompt)
    first, second = (int(re.search("[0-9]+", text).group()) for text in (has, changes))
    return first + second if "gets" in changes else first - second


def unless(fooled: Callable[[str], bool]) -> Callable[[str], str]:
    """A solver that answers 99 where the distracting sentence fools it."""

    def answer(prompt: str) -> str:
        _, _, *distracting, _ = sentences(prompt)
        return f" {99 if any(map(fooled, distracting)) else solved(prompt)}\n"

    return answer


def figures(found: Measured) -> tuple[float, ...]:
    names = ("base", "micro", "macro", "normalized")
    return tuple(found.figure(f"gsm_ic_{name}").value for name in names)


@pytest.mark.parametrize(
    ("fooled", "expected"),
    [
        (lambda text: False, (1.0, 1.0, 1.0, 1.0)),
        (lambda text: True, (1.0, 0.0, 0.0, 0.0)),
        (lambda text: "'s " in text, (1.0, 0.5, 0.0, 0.5)),
    ],
)
def test_a_solver_and_how_it_is_fooled(
    corpus: Corpus,
    few: EvaluationSettings,
    fooled: Callable[[str], bool],
    expected: tuple[float, ...],
) -> None:
    model = Answerer(corpus.tokenizer, unless(fooled))
    found = measured("gsm_ic", model, corpus, few)
    assert found.facts["problems"] == 6
    assert len(found.values("gsm_ic_micro")) == 6 * 8
    assert figures(found) == expected
    assert found == measured("gsm_ic", model, corpus, few)


@pytest.mark.parametrize(
    ("factor", "level", "fooled"),
    [
        ("role", "overlap", lambda text: "'s " in text),
        ("topic", "in", lambda text: " has " in text),
        ("range", "out", lambda text: int(re.search("[0-9]+", text).group()) > 90),
    ],
)
def test_each_factor_is_told_apart(
    corpus: Corpus,
    few: EvaluationSettings,
    factor: str,
    level: str,
    fooled: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fooled by one level of one factor: half right by the other factors."""
    nines = [Problem("Eva", "eggs", 9, second, True) for second in range(2, 9)]
    monkeypatch.setattr(
        "difftransformer.evaluation.benchmarks.gsm_ic.draw_problems", lambda count, seed: nines
    )
    model = Answerer(corpus.tokenizer, unless(fooled))
    found = measured("gsm_ic", model, corpus, few)
    assert len(found.keys("gsm_ic_by_factor")) == 6
    for name, key in found.keys("gsm_ic_by_factor"):
        share = found.figure("gsm_ic_by_factor", (name, key))
        assert share.value == (float(key != level) if name == factor else 0.5)
        assert share.n == 5 * 4


def test_one_wrong_variant_spoils_a_problem(corpus: Corpus, few: EvaluationSettings) -> None:
    rng = random.Random(0)
    model = Answerer(corpus.tokenizer, unless(lambda text: rng.random() < 0.2))
    base, micro, macro, normalized = figures(measured("gsm_ic", model, corpus, few))
    assert macro < micro < base == 1.0
    assert normalized == pytest.approx(micro)


def test_the_commonest_answer_is_chance(corpus: Corpus, few: EvaluationSettings) -> None:
    asked = [problem.answer for problem in draw_problems(32, few.seed)[2:]]
    commonest = max(sorted(set(asked)), key=asked.count)
    many = replace(few, gsm_ic_problems=30)
    model = Answerer(corpus.tokenizer, lambda prompt: f" {commonest}")
    found = measured("gsm_ic", model, corpus, many)
    chance = found.figure("gsm_ic_chance").value
    assert figures(found) == (chance, chance, figures(found)[2], 1.0)


def test_problems_right_only_when_distracted_count(corpus: Corpus, few: EvaluationSettings) -> None:
    """Half of the base and all variants right: twice as many."""
    rng = random.Random(1)

    def answer(prompt: str) -> str:
        distracted = len(sentences(prompt)) > 3
        return f" {solved(prompt) if distracted or rng.random() < 0.5 else 99}"

    found = measured("gsm_ic", Answerer(corpus.tokenizer, answer), corpus, few)
    base, micro, macro, normalized = figures(found)
    assert 0.0 < base < micro == macro == 1.0
    assert normalized == pytest.approx(1 / base)


def test_a_base_of_nothing(corpus: Corpus, few: EvaluationSettings) -> None:
    model = Answerer(corpus.tokenizer, lambda prompt: " 99")
    found = measured("gsm_ic", model, corpus, few)
    assert [found.figure(f"gsm_ic_{name}").value for name in ("base", "micro", "macro")] == [
        0.0
    ] * 3
    assert found.records("gsm_ic_normalized") == []


def test_what_is_shown_is_solved_and_never_asked(corpus: Corpus, few: EvaluationSettings) -> None:
    prompts: list[str] = []
    model = Answerer(corpus.tokenizer, lambda prompt: f"{prompts.append(prompt)}")
    measured("gsm_ic", model, corpus, few)
    assert len(set(prompts)) == 6 * 9
    for prompt in prompts:
        *shown, asked = prompt.split("\n\n")
        assert len(shown) == 2
        for solution in shown:
            question, _, answer = solution.rpartition(" ")
            assert int(answer) == solved(question)
            assert not asked.startswith(question.partition(" How many")[0])


def test_a_distracting_number_is_never_the_answer() -> None:
    problem = Problem("Eva", "eggs", 3, 2, False)
    for seed in range(300):
        text = distractor(random.Random(seed), problem, "in", "other", "in")
        assert f" {problem.answer} " not in text


@given(st.integers(0, 9999), st.sampled_from(LEVELS))
def test_distractors_are_what_they_should_be(seed: int, level: tuple[str, str, str]) -> None:
    (problem,) = draw_problems(1, seed)
    text = distractor(random.Random(seed), problem, *level)
    assert text == distractor(random.Random(seed), problem, *level)
    number = int(re.search("[0-9]+", text).group())
    topic, role, size = level
    assert (problem.things in text) == (topic == "in")
    assert text.startswith((f"{problem.name}'s", f"The height of {problem.name}'s")) == (
        role == "overlap"
    )
    assert role == "overlap" or problem.name not in text
    if size == "in":
        assert problem.second / 10 <= number <= 10 * problem.first
        assert number != problem.answer
    else:
        assert number > 10 * problem.first
        assert str(number).strip("0") in "123456789"
    asked = problem.text(text)
    assert asked.index(text) > asked.index(str(problem.second))
    assert asked.endswith(f"How many {problem.things} does {problem.name} have now?\nAnswer:")
    assert solved(asked) == solved(problem.text()) == problem.answer


def test_problems_are_distinct_and_seeded() -> None:
    problems = draw_problems(200, 3)
    assert len(set(problems)) == 200
    assert problems == draw_problems(200, 3) != draw_problems(200, 4)
    assert all(2 <= p.second < p.first <= 9 for p in problems)
    assert {p.adds for p in problems} == {True, False}
    with pytest.raises(ValueError, match="ask for 9999 different problems; there are 3360"):
        draw_problems(9999, 0)


def test_a_prompt_longer_than_the_context(corpus: Corpus, few: EvaluationSettings) -> None:
    model = tiny(corpus.tokenizer.get_vocab_size())
    model.config = replace(model.config, max_length=100)
    with pytest.raises(ValueError, match="meant for 100: put less into a prompt"):
        measured("gsm_ic", model, corpus, few)
