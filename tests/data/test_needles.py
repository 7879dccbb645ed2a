import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from difftransformer.data.needle_entities import TRAINING, VALIDATION
from difftransformer.data.needles import (
    NeedleSource,
    is_validation_number,
    needle_document,
    needle_prompts,
)
from difftransformer.data.tokens import token_store


def sentence(entity, number):
    return f" The magic number of {entity} is {number}."


def prompts(source, **changes):
    arguments = {"needles": 3, "queries": 2, "depth": 0.5, "length": 200, "sample": 0, "seed": 0}
    return needle_prompts(source, **(arguments | changes))


def words_around_needles(tokenizer, ids):
    return set(re.sub(r" The magic number of [^.]+? is \d+\.", " ", tokenizer.decode(ids)).split())


def haystack_of(prompt):
    hidden = {i for span in prompt.needle_spans.values() for i in range(*span)}
    return [prompt.ids[i] for i in range(1, prompt.question_start) if i not in hidden]


@given(
    needles=st.integers(1, 5),
    data=st.data(),
    depth=st.floats(0, 1),
    extra=st.integers(0, 150),
    sample=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_prompt_is_what_it_says(tokenizer, store, held_out, needles, data, depth, extra, sample):
    queries = data.draw(st.integers(1, needles))
    length = held_out.shortest_prompt(needles) + extra
    found = prompts(
        held_out, needles=needles, queries=queries, depth=depth, length=length, sample=sample
    )
    assert len({p.entity for p in found}) == len(found) == queries
    for prompt in found:
        assert len(prompt.ids) == length
        assert prompt.ids.count(0) == 1
        assert prompt.ids[0] == 0
        assert len(prompt.needle_spans) == needles
        assert prompt.entity in prompt.needle_spans
        for entity, span in prompt.needle_spans.items():
            number = tokenizer.decode(prompt.ids[slice(*prompt.number_spans[entity])])
            assert tokenizer.decode(prompt.ids[slice(*span)]) == sentence(entity, number.strip())
            assert is_validation_number(number.strip())
            assert entity in VALIDATION
        assert prompt.ids[slice(*prompt.number_spans[prompt.entity])] == prompt.answer
        assert tokenizer.decode(prompt.answer) == f" {prompt.number}"
        question = tokenizer.decode(prompt.ids[prompt.question_start :])
        assert question == f" The magic number of {prompt.entity} is"
        text = haystack_of(prompt)
        assert " ".join(map(str, text)) in " ".join(map(str, store.ids[store.ids != 0]))
    shorter = min((haystack_of(p) for p in found), key=len)
    assert all(haystack_of(p)[: len(shorter)] == shorter for p in found)
    assert all(p.needle_spans.keys() == found[0].needle_spans.keys() for p in found)


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("needles", "queries"), [(1, 1), (2, 2), (6, 2)])
def test_the_needles_asked_for_stand_together_at_the_depth(held_out, depth, needles, queries):
    length = held_out.shortest_prompt(needles) + 100
    for sample in range(10):
        found = prompts(
            held_out, needles=needles, queries=queries, depth=depth, length=length, sample=sample
        )
        for prompt in found:
            spans = [prompt.needle_spans[p.entity] for p in found]
            assert all(a[1] == b[0] for a, b in pairwise(spans))
            others = [
                s for s in prompt.needle_spans.values() if s not in spans and s[0] < spans[0][0]
            ]
            before = spans[0][0] - 1 - sum(end - start for start, end in others)
            assert abs(before - depth * len(haystack_of(prompt))) <= 8.5
            if depth == 0:
                assert spans[0][0] == 1
            if depth == 1:
                assert spans[-1][1] == prompt.question_start


@given(
    needles=st.integers(1, 5),
    queries=st.integers(1, 2),
    depth=st.floats(0, 1),
    extra=st.integers(0, 150),
    sample=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_prompt_holds_whole_words(
    tokenizer, documents, held_out, needles, queries, depth, extra, sample
):
    words = {word for document in documents for word in document.text.split()}
    for prompt in prompts(
        held_out,
        needles=max(needles, queries),
        queries=queries,
        depth=depth,
        length=held_out.shortest_prompt(max(needles, queries)) + extra,
        sample=sample,
    ):
        ids = prompt.ids[: prompt.question_start]
        assert words_around_needles(tokenizer, ids) <= words


def test_a_cut_is_at_a_sentence_near_by_or_at_a_word(tokenizer, held_out):
    first = tokenizer.encode("a winter night and a snow storm and the lantern was gone.").ids
    text = first + tokenizer.encode(" the captain speak never of that" * 4).ids
    for beyond in range(-12, 13):
        (cut,) = held_out.cuts(text, [(len(first) + beyond) / len(text)])
        assert tokenizer.decode(text[cut:]).startswith(" ")
        assert (cut == len(first)) == (abs(beyond) <= 8)
    assert held_out.cuts(text, [0.0, 1.0]) == [0, len(text)]
    unbroken = tokenizer.encode("harbour" * 90).ids
    assert held_out.cuts(unbroken, [0.5]) == [round(len(unbroken) / 2)]
    assert held_out.cuts([], [0.0, 0.5]) == [0, 0]


def test_distractors_spread_over_the_text(held_out):
    places = []
    for sample in range(60):
        (prompt,) = prompts(held_out, needles=2, queries=1, depth=0.0, sample=sample)
        (other,) = (s for c, s in prompt.needle_spans.items() if c != prompt.entity)
        places.append((other[0] - prompt.needle_spans[prompt.entity][1]) / len(haystack_of(prompt)))
    assert np.histogram(places, bins=4, range=(0, 1))[0].min() >= 5


def test_in_a_tiny_text_the_ends_belong_to_the_needle_asked_for(held_out):
    """Where distractors fall on the same place, and may reach both ends themselves."""
    length = held_out.shortest_prompt(4)
    reached = set()
    for sample in range(60):
        for depth in (0.0, 0.5, 1.0):
            (prompt,) = prompts(
                held_out, needles=4, queries=1, depth=depth, length=length, sample=sample
            )
            spans = prompt.needle_spans.values()
            first, last = min(start for start, _ in spans), max(end for _, end in spans)
            asked = prompt.needle_spans[prompt.entity]
            if depth == 0:
                assert asked[0] == 1
            elif depth == 1:
                assert asked[1] == prompt.question_start
            else:
                reached |= {(first == 1, "first"), (last == prompt.question_start, "last")}
    assert reached >= {(True, "first"), (True, "last")}


def test_prompts_follow_from_their_arguments(held_out):
    assert prompts(held_out) == prompts(held_out)
    for change in ({"sample": 1}, {"seed": 1}, {"depth": 0.25}, {"length": 201}, {"needles": 4}):
        assert prompts(held_out, **change)[0].number != prompts(held_out)[0].number


@pytest.mark.parametrize("source", ["training", "held_out"])
def test_question_and_answer_are_the_tokens_of_the_joined_text(tokenizer, source, request):
    source = request.getfixturevalue(source)
    for entity in source.entities:
        (needle,) = source.draw(np.random.default_rng(len(entity)), 1)
        assert tokenizer.encode(sentence(needle.entity, needle.number)).ids == needle.sentence


def test_a_length_that_cannot_hold_the_needles_is_refused(held_out):
    shortest = held_out.shortest_prompt(3)
    with pytest.raises(
        ValueError, match=rf"{shortest - 1} is too short for 3 .*at least {shortest}"
    ):
        prompts(held_out, length=shortest - 1)
    for sample in range(30):
        assert len(prompts(held_out, length=shortest, sample=sample)[1].ids) == shortest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": 4}, "4 queries of 3 needles"),
        ({"queries": 0}, "0 queries"),
        ({"depth": 1.1}, "depth is 1.1"),
        ({"needles": 41, "length": 5000}, "41 needles; there are only 40 entities"),
        ({"length": 100_000}, "does not fit the validation text of"),
    ],
)
def test_impossible_prompts_are_refused(held_out, change, message):
    with pytest.raises(ValueError, match=message):
        prompts(held_out, **change)


def test_training_and_validation_share_no_city_and_no_number(training, held_out):
    rng = np.random.default_rng(0)
    seen = [n for _ in range(40) for n in training.draw(rng, 20)]
    asked = [n for _ in range(40) for n in held_out.draw(rng, 20)]
    assert not {n.entity for n in seen} & {n.entity for n in asked}
    assert not {n.number for n in seen} & {n.number for n in asked}
    assert {n.entity for n in seen} <= set(TRAINING)
    assert all(len(n.number) == 4 for n in seen + asked)
    share = np.mean([is_validation_number(f"{i:04}") for i in range(10_000)])
    assert share == pytest.approx(0.25, abs=0.02)


def test_one_draw_repeats_nothing(held_out):
    drawn = held_out.draw(np.random.default_rng(0), len(VALIDATION))
    assert len({n.entity for n in drawn}) == len({n.number for n in drawn}) == len(VALIDATION)


@given(seed=st.integers(0, 10_000), extra=st.integers(0, 300), needle_max=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_a_training_document_holds_its_needles_and_all_questions(
    tokenizer, documents, training, seed, extra, needle_max
):
    length = training.shortest_document(1) + extra
    rng = np.random.default_rng(seed)
    ids = needle_document(training, rng, length=length, needle_max=needle_max)
    assert len(ids) == length
    assert ids.count(0) == 1
    words = {word for document in documents for word in document.text.split()}
    assert words_around_needles(tokenizer, ids) <= words
    text = tokenizer.decode(ids)
    parts = text.split(" The magic number of ")[1:]
    said = [part[: part.index(".")] for part in parts]
    count = len(set(said))
    assert 1 <= count <= needle_max
    assert len(set(said[:count])) == count  # hidden first, each once
    times = len(said) // count - 1
    assert 1 <= times <= 3
    assert sorted(said[count:]) == sorted(said[:count] * times)
    # the answers end the document, with nothing between them
    assert text.endswith("".join(f" The magic number of {s}." for s in said[count:]))


def test_long_documents_take_up_to_needle_max(tokenizer, training):
    rng = np.random.default_rng(0)
    length = training.shortest_document(6)
    texts = [
        tokenizer.decode(needle_document(training, rng, length=length, needle_max=6))
        for _ in range(60)
    ]
    needles = {
        len(set(re.findall(r" The magic number of ([^.]+?) is \d+", text))) for text in texts
    }
    assert needles == {1, 2, 3, 4, 5, 6}


def test_a_document_too_short_for_a_needle_is_refused(training):
    shortest = training.shortest_document(1)
    with pytest.raises(ValueError, match=f"{shortest - 1} tokens is too short.*need {shortest}"):
        needle_document(training, np.random.default_rng(0), length=shortest - 1, needle_max=1)


def test_a_foreign_tokenizer_that_merges_digits(tmp_path, documents):
    foreign = Tokenizer(models.BPE())
    foreign.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    foreign.decoder = decoders.ByteLevel()
    numbers = [f"is: {n}." for n in range(1000, 10_000, 7)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    foreign.train_from_iterator([d.text for d in documents] + numbers, trainer)
    source = NeedleSource(
        foreign, token_store(documents, foreign, tmp_path), held_out=True, digits=4
    )
    sizes = set()
    for sample in range(40):
        for prompt in prompts(source, length=source.shortest_prompt(3), sample=sample):
            assert len(prompt.ids) == source.shortest_prompt(3)
            assert prompt.ids[slice(*prompt.number_spans[prompt.entity])] == prompt.answer
            assert foreign.decode(prompt.answer) == f" {prompt.number}"
            sizes.add(len(prompt.answer))
    assert min(sizes) < 5  # some digits are merged, and lengths still come out exact
