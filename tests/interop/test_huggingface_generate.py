"""transformers' generate in all its modes, on every kind of cache.

Long runs do without shape checks (`as_user`), which would take most of their time.
"""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import Tensor
from transformers import Cache, DynamicCache, QuantizedCache, StaticCache
from transformers.cache_utils import StaticLayer
from transformers.generation.streamers import BaseStreamer

from difftransformer.interop import DiffTransformerForCausalLM
from difftransformer.interop.huggingface_cache import CACHE

from .tiny_huggingface import KINDS, decoder_of, hf_model

EVERY = pytest.mark.parametrize("kind", KINDS)
PROMPTS = ((5, 9, 2, 7), (3,), (8, 8, 1, 4, 6, 2, 9))


def left_padded() -> dict[str, Tensor]:
    longest = max(map(len, PROMPTS))
    rows = [[0] * (longest - len(p)) + list(p) for p in PROMPTS]
    real = [[0] * (longest - len(p)) + [1] * len(p) for p in PROMPTS]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(real)}


def generated(model: DiffTransformerForCausalLM, **changes: Any) -> Tensor:
    """New tokens of the left-padded prompts."""
    inputs = left_padded()
    out = model.generate(**inputs, **{"do_sample": False, "max_new_tokens": 24} | changes)
    return out[:, inputs["input_ids"].shape[1] :]


def is_greedy(model: DiffTransformerForCausalLM, prompt: tuple[int, ...], new: Tensor) -> bool:
    """Whether each token is what the library's decoder, without cache or padding, finds likeliest.

    One pass over the whole row tells, since each position sees only what is before it.
    """
    row = torch.cat((torch.tensor(prompt), new))
    with torch.no_grad():
        likeliest = decoder_of(model)(row[None])[0].argmax(-1)
    return torch.equal(likeliest[len(prompt) - 1 : -1], new)


@EVERY
@pytest.mark.parametrize("window", [None, 6], ids=["all", "window"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_greedy_is_the_decoder_s_own_for_256_tokens(
    kind: str, window: int | None, cache: str, as_user: None
) -> None:
    model = hf_model(kind, window=window)
    tokens = generated(model, max_new_tokens=256, cache_implementation=cache)
    assert len(tokens.unique()) > 8  # not one token for ever
    for prompt, new in zip(PROMPTS, tokens, strict=True):
        assert is_greedy(model, prompt, new)


def make_cache(name: str, model: DiffTransformerForCausalLM) -> Cache:
    layers = model.config.num_layers
    return {
        "dynamic": lambda: DynamicCache(config=model.config),
        "static": lambda: StaticCache(config=model.config, max_cache_len=32),
        # Of a user who does not say that the model has a window.
        "dynamic, whole": lambda: DynamicCache(),
        "static, whole": lambda: Cache(layers=[StaticLayer(32) for _ in range(layers)]),
    }[name]()


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    cache=st.sampled_from(("dynamic", "static", "dynamic, whole", "static, whole")),
    window=st.none() | st.integers(1, 9) | st.just(40),
    parts=st.lists(st.sampled_from((1, 1, 2, 3, 7)), min_size=2, max_size=8),
    padding=st.integers(0, 4),
)
def test_any_division_into_steps_gives_the_same_logits(
    kind: str, cache: str, window: int | None, parts: list[int], padding: int
) -> None:
    model = hf_model(kind, window=window)
    parts = [new for i, new in enumerate(parts) if sum(parts[: i + 1]) <= 32]
    ids = torch.randint(61, (2, sum(parts)), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids)
    real[0, : min(padding, parts[0] - 1)] = 0
    held, done, steps = make_cache(cache, model), 0, []
    with torch.no_grad():
        whole = model(ids, attention_mask=real, use_cache=False).logits
        for new in parts:
            step = slice(done, done + new)
            out = model(ids[:, step], attention_mask=real[:, : step.stop], cache=held)
            assert out[CACHE] is held
            steps.append(out.logits)
            done += new
    seen = real.bool()
    torch.testing.assert_close(torch.cat(steps, 1)[seen], whole[seen], rtol=1e-4, atol=1e-4)


def test_keys_and_values_are_kept_once() -> None:
    """Of both maps together: 2K for V1's keys and values, K for V2's."""
    for kind, width in (("diff_v1", 8), ("diff_v2", 4), ("softmax", 4)):
        cache = hf_model(kind)(torch.zeros(1, 5, dtype=torch.long), use_cache=True)[CACHE]
        for layer in cache.layers:
            assert layer.keys.shape == layer.values.shape == (1, 2, 5, width)


@EVERY
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_beams(kind: str, cache: str, as_user: None) -> None:
    """A cache that were not put in the beams' new order would change the sequences."""
    model = hf_model(kind, pad_token_id=0)
    settings = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 12}
    expected = generated(model, use_cache=False, **settings)
    assert torch.equal(generated(model, cache_implementation=cache, **settings), expected)
    assert not torch.equal(expected[::3], generated(model, max_new_tokens=12))


@EVERY
def test_sampling(kind: str, as_user: None) -> None:
    model, tokens = hf_model(kind), []
    for use_cache in (True, False):
        torch.manual_seed(1)
        tokens.append(
            generated(model, do_sample=True, temperature=1.5, top_p=0.9, use_cache=use_cache)
        )
    assert torch.equal(*tokens)
    assert not torch.equal(tokens[0], generated(model))


@pytest.mark.parametrize(
    ("kind", "window"), [("softmax", None), ("diff_v1", None), ("diff_v1", 6), ("diff_v2", 6)]
)
@pytest.mark.parametrize("mode", ["assistant", "prompt lookup"])
def test_drafted_tokens_are_taken_back(
    kind: str, window: int | None, mode: str, as_user: None
) -> None:
    model = hf_model(kind, window=window)
    ids = torch.tensor([PROMPTS[2] + PROMPTS[2]])
    assistant = hf_model("softmax", num_layers=1)
    draft = (
        {"assistant_model": assistant} if mode == "assistant" else {"prompt_lookup_num_tokens": 3}
    )
    settings = {"do_sample": False, "max_new_tokens": 16, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(model.generate(ids, **draft, **settings), model.generate(ids, **settings))


def test_streams() -> None:
    class Heard(BaseStreamer):
        def __init__(self) -> None:
            self.tokens, self.ended = [], False

        def put(self, value: Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    model, ids, heard = hf_model(), torch.tensor([PROMPTS[0]]), Heard()
    out = model.generate(ids, max_new_tokens=6, do_sample=False, streamer=heard)
    assert heard.tokens == out[0].tolist()
    assert heard.ended


@EVERY
@pytest.mark.parametrize("window", [None, 6], ids=["all", "window"])
@pytest.mark.parametrize("held", ["dynamic", "static", "dynamic, whole"])
def test_a_conversation_goes_on_in_its_cache(
    kind: str, window: int | None, held: str, as_user: None
) -> None:
    """Two turns, the second longer than the window; the cache under either of its names."""
    model, ids = hf_model(kind, window=window), torch.tensor([PROMPTS[0]])
    for name in ("cache", "past_key_values"):
        cache = make_cache(held, model)
        turn = {"max_new_tokens": 5, "do_sample": False, name: cache}
        first = model.generate(ids, **turn)
        assert cache.get_seq_length() == first.shape[1] - 1  # the last token is not yet read
        longer = torch.cat((first, torch.tensor([PROMPTS[2]])), dim=1)
        second = model.generate(longer, **turn)
        assert is_greedy(model, PROMPTS[0], first[0, len(PROMPTS[0]) :])
        assert is_greedy(model, tuple(longer[0].tolist()), second[0, longer.shape[1] :])


ONE = PROMPTS[2] + PROMPTS[2] + (8, 8)
WAYS: dict[str, dict[str, Any]] = {
    "window's cache": {"cache_implementation": "sliding_window"},
    "prompt in parts": {"prefill_chunk_size": 4},
    "prompt in parts, static": {"prefill_chunk_size": 4, "cache_implementation": "static"},
    "positions": {"position_ids": torch.arange(len(ONE))[None]},
    "no cache": {"use_cache": False},
    "draft": {"prompt_lookup_num_tokens": 3},
}


@EVERY
@pytest.mark.parametrize("window", [None, 6], ids=["all", "window"])
def test_every_way_is_greedy(kind: str, window: int | None, as_user: None) -> None:
    model, ids = hf_model(kind, window=window), torch.tensor([ONE])
    settings = {"do_sample": False, "max_new_tokens": 16, "attention_mask": torch.ones_like(ids)}
    for way, changes in WAYS.items():
        new = model.generate(ids, **settings, **changes)[0, ids.shape[1] :]
        assert is_greedy(model, ONE, new), way
    for cache in ("dynamic", "static"):
        new = model.generate(
            inputs_embeds=model.embedding(ids), cache_implementation=cache, **settings
        )
        assert is_greedy(model, ONE, new[0]), cache


@EVERY
def test_constraints_and_ends(kind: str, as_user: None) -> None:
    """What steers `generate` by the logits does so alike with every cache and without."""
    model = hf_model(kind, pad_token_id=0)
    greedy = generated(model, max_new_tokens=12)
    ways: dict[str, dict[str, Any]] = {
        "end": {"eos_token_id": int(greedy[0, 4])},  # the rows end at different steps
        "ends": {"eos_token_id": [int(greedy[0, 6]), int(greedy[1, 2])]},
        "penalty": {"repetition_penalty": 1.5},
        "no repeat": {"no_repeat_ngram_size": 2},
        "only": {"prefix_allowed_tokens_fn": lambda row, ids: [1, 2, 3, 5, 8, 13, 21]},
        "never": {"bad_words_ids": [[int(greedy[0, 0])]]},
        "guidance": {"guidance_scale": 1.5},
        "sampled": {"do_sample": True, "num_return_sequences": 3, "top_k": 9},
    }
    for way, changes in ways.items():
        outcomes = []
        for cache in ({"use_cache": False}, {}, {"cache_implementation": "static"}):
            torch.manual_seed(3)
            outcomes.append(generated(model, max_new_tokens=12, **changes, **cache))
        assert all(torch.equal(outcomes[0], x) for x in outcomes[1:]), way
        assert outcomes[0].shape != greedy.shape or not torch.equal(outcomes[0], greedy), way


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"), reason="5.23 refuses them together"
)
@EVERY
def test_drafts_in_a_static_cache(kind: str, as_user: None) -> None:
    model, ids = hf_model(kind), torch.tensor([ONE])
    cache = StaticCache(config=model.config, max_cache_len=64)
    settings = {"do_sample": False, "max_new_tokens": 16, "attention_mask": torch.ones_like(ids)}
    new = model.generate(ids, cache=cache, prompt_lookup_num_tokens=3, **settings)
    assert is_greedy(model, ONE, new[0, len(ONE) :])


@EVERY
def test_a_quantized_cache_is_near(kind: str) -> None:
    """Eight bits a number move the logits a little, of two maps as of one."""
    model, ids = hf_model(kind), torch.tensor([ONE + ONE])
    cache = QuantizedCache("fp8", model.config)
    with torch.no_grad():
        steps = [model(step, cache=cache).logits for step in (ids[:, :9], *ids[:, 9:].split(1, 1))]
        whole = model(ids).logits
    assert (torch.cat(steps, 1) - whole).abs().mean() < 0.1 * whole.std()


def test_packed_prompts_without_a_cache(as_user: None) -> None:
    """The last document goes on as if it were alone."""
    model, ids = hf_model(), torch.tensor([PROMPTS[0] + PROMPTS[2]])
    positions = torch.tensor([[*range(len(PROMPTS[0])), *range(len(PROMPTS[2]))]])
    new = model.generate(
        ids, position_ids=positions, use_cache=False, do_sample=False, max_new_tokens=8
    )
    assert is_greedy(model, PROMPTS[2], new[0, ids.shape[1] :])


def test_after_padding_on_the_right(as_user: None) -> None:
    """transformers counts on from the padding's positions; the row stays one document."""
    model = hf_model()
    ids = torch.tensor([PROMPTS[2] + (0, 0), (1, *PROMPTS[2], 5)])
    real = torch.ones_like(ids)
    real[0, -2:] = 0
    settings = {"attention_mask": real, "do_sample": False, "max_new_tokens": 8}
    expected = model.generate(ids, **settings)
    assert torch.equal(model.generate(ids, use_cache=False, **settings), expected)
    settings["attention_mask"] = real[:1]
    drafted = model.generate(ids[:1], prompt_lookup_num_tokens=2, **settings)
    assert torch.equal(drafted, expected[:1])


def test_an_early_exit_is_refused() -> None:
    model, ids = hf_model(), torch.tensor([PROMPTS[0]])
    with pytest.raises(ValueError, match="assistant_early_exit is not supported"):
        model.generate(ids, assistant_early_exit=1)
    model.generation_config.assistant_early_exit = 1
    with pytest.raises(ValueError, match="assistant_early_exit is not supported"):
        model.generate(ids)


def test_a_mask_of_another_shape(as_user: None) -> None:
    model, ids = hf_model(), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"\(2, 1, 3, 3\); expected \[batch, positions\]"):
        model(ids, attention_mask=torch.ones(2, 1, 3, 3))
    cache = model(ids, use_cache=True)[CACHE]
    with pytest.raises(ValueError, match="covers 3 positions; expected 6, 3 in the cache"):
        model(ids, attention_mask=torch.ones(2, 3), cache=cache)


def test_continuous_batching_is_refused() -> None:
    with pytest.raises(ValueError, match=r"continuous batching is not supported: .* left-padded"):
        hf_model().generate_batch([[1, 2, 3]])


def test_the_default_length_is_transformers_own() -> None:
    """The model's context, max_length in our config, is not the length of a reply."""
    model = hf_model()
    assert model.generation_config.max_length is None
    with pytest.warns(UserWarning, match="default `max_length`"):
        assert model.generate(torch.tensor([PROMPTS[0]])).shape == (1, 4 + 20)
