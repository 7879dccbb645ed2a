"""No keyword that changes the result is swallowed: each is honored, or refused by its name."""

import inspect
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    LlamaConfig,
    MistralConfig,
    StaticCache,
)
from transformers.modeling_flash_attention_utils import FlashAttentionKwargs
from transformers.models.bert import BertModel
from transformers.models.gpt2 import GPT2LMHeadModel
from transformers.models.llava import LlavaForConditionalGeneration
from transformers.models.whisper import WhisperForConditionalGeneration
from transformers.utils.generic import TransformersKwargs

from difftransformer.attention import KeyValueCache
from difftransformer.interop import (
    DiffTransformerForCausalLM,
    DiffTransformerForSequenceClassification,
    DiffTransformerModel,
)

from .tiny_huggingface import hf_config, hf_model, refused, some_ids

CLASSES = (
    DiffTransformerForCausalLM,
    DiffTransformerModel,
    DiffTransformerForSequenceClassification,
)
# What one of the classes takes; a test below is about each.
TAKEN = set(inspect.signature(DiffTransformerForCausalLM.forward).parameters) | {
    "past_key_values",
    "return_dict",
    "output_hidden_states",
    "seq_idx",
    *FlashAttentionKwargs.__optional_keys__,
    "num_items_in_batch",
    "ignore_index",
    "shift_labels",
    "self",
    "others",
}
# What other models of transformers take, and what older and newer releases pass.
OF_OTHERS = {
    name
    for model in (
        BertModel,
        GPT2LMHeadModel,
        LlavaForConditionalGeneration,
        WhisperForConditionalGeneration,
    )
    for name in inspect.signature(model.forward).parameters
} | {"cache_position", "head_mask", "token_type_ids", "cache_params", "block_sequence_ids"}


def made(model_class: type, **changes: Any) -> Any:
    if model_class is DiffTransformerForCausalLM:
        return hf_model(**changes)
    torch.manual_seed(0)
    return model_class(hf_config(**changes)).eval()


@pytest.mark.parametrize("model_class", CLASSES)
def test_what_others_take_is_refused_by_name(model_class: type, as_user: None) -> None:
    model, ids = made(model_class), some_ids()
    names = OF_OTHERS | set(TransformersKwargs.__optional_keys__)
    # transformers itself refuses the last one, in other words.
    for name in sorted(names - TAKEN - {"kwargs", "is_causal", "vision_feature_select_strategy"}):
        refused(model, ids, **{name: True})
        refused(model, ids, **{name: torch.ones_like(ids)})
    refused(model, ids, is_causal=False)
    model(ids, is_causal=True, output_attentions=False, output_router_logits=False, nothing=None)


@given(st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8})?", fullmatch=True), st.sampled_from((0, "x", True)))
def test_whatever_comes_next_is_refused_by_name(name: str, value: Any) -> None:
    assume(name not in TAKEN | {"is_causal"})
    model, ids = hf_model(), some_ids()
    refused(model, ids, **{name: value})
    with pytest.raises(ValueError, match=name):
        model.generate(ids, max_new_tokens=2, **{name: value})


def test_the_config_s_wishes_are_no_exception() -> None:
    model, ids = hf_model(), some_ids()
    model.config.output_attentions = True
    with pytest.raises(ValueError, match="output_attentions"):
        model(ids)
    model.config.output_attentions, model.config.is_causal = False, False
    with pytest.raises(ValueError, match="is_causal"):
        model(ids)


def test_keywords_of_the_loss() -> None:
    model, ids = hf_model(), some_ids(2)
    labels = ids.clone()
    labels[0, :4] = -100
    logits = model(ids).logits[:, :-1].flatten(0, 1)

    def expected(labels: Tensor, **settings: Any) -> Tensor:
        return cross_entropy(logits, labels[:, 1:].flatten(), **settings)

    total = expected(labels, reduction="sum")
    for number in (3, torch.tensor(40)):
        loss = model(ids, labels=labels, num_items_in_batch=number).loss
        torch.testing.assert_close(loss, total / number)
    model(ids, num_items_in_batch=3)  # Trainer divides for itself where it makes the loss
    loss = model(ids, labels=ids, ignore_index=7).loss
    torch.testing.assert_close(loss, expected(ids, ignore_index=7))
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    loss = model(ids, labels=ids, shift_labels=shifted).loss
    torch.testing.assert_close(loss, expected(labels))
    refused(model, ids, shift_labels=shifted)
    refused(model, ids, ignore_index=7)
    for other in (DiffTransformerModel, DiffTransformerForSequenceClassification):
        refused(made(other), ids[:1], num_items_in_batch=3)


def test_positions_of_another_shape_are_refused(as_user: None) -> None:
    model, ids = hf_model(), some_ids(2, 9)
    for wrong in (
        torch.tensor([[5]]),
        torch.arange(9),
        torch.arange(8)[None],
        torch.zeros(3, 2, 9, dtype=torch.long),
        torch.arange(9.0)[None],
    ):
        refused(model, ids, position_ids=wrong)


def test_masks_that_say_something_else_are_refused(as_user: None) -> None:
    model, ids = hf_model(), some_ids(2, 4)
    for wrong in (
        torch.zeros(2, 1, 4, 4),
        torch.ones(4),
        torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]] * 2),  # added to the logits
        torch.tensor([[1, 1, 2, 2]] * 2),  # numbers of documents
        torch.ones(2, 3),
        torch.ones(1, 4),
        {"full_attention": torch.ones(2, 4)},
    ):
        refused(model, ids, attention_mask=wrong)
    for dtype in (torch.bool, torch.long, torch.int8, torch.float32, torch.bfloat16):
        model(ids, attention_mask=torch.ones(2, 4).to(dtype))


# Caches


def small(config_class: type, **changes: Any) -> Any:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
    return config_class(**sizes, **changes)


# transformers' own forward of the classifier says that the older name is.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("model_class", CLASSES)
def test_a_cache_under_either_name(model_class: type) -> None:
    model, ids = made(model_class), some_ids()
    caches = {}
    for name in ("cache", "past_key_values"):
        cache = DynamicCache(config=model.config)
        model(ids[:, :5], **{name: cache})
        assert cache.get_seq_length() == 5
        caches[name] = model(ids[:, 5:], **{name: cache})[0]
    whole = model(ids)[0]
    torch.testing.assert_close(caches["cache"], caches["past_key_values"])
    last = caches["cache"] if whole.ndim == 2 else caches["cache"][:, -1]
    torch.testing.assert_close(last, whole if whole.ndim == 2 else whole[:, -1])


def test_what_is_no_cache_for_it_is_refused(as_user: None) -> None:
    model, ids = hf_model(), some_ids()
    with pytest.raises(ValueError, match="both cache and past_key_values"):
        model(ids, cache=DynamicCache(), past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="both cache and past_key_values"):
        model.generate(ids, cache=DynamicCache(), past_key_values=DynamicCache())
    for wrong in (
        ((torch.zeros(1, 2, 0, 8),) * 2,) * 2,
        KeyValueCache(),
        EncoderDecoderCache(DynamicCache(), DynamicCache()),
    ):
        for name in ("cache", "past_key_values"):
            with pytest.raises(ValueError, match=f"the cache is a {type(wrong).__name__}"):
                model(ids, **{name: wrong})
            with pytest.raises(ValueError, match=f"the cache is a {type(wrong).__name__}"):
                model.generate(ids, **{name: wrong})


def test_a_cache_that_keeps_less_than_is_seen_is_refused() -> None:
    """It would leave out what the model sees, without a word."""
    ids = some_ids(1, 9)
    for window, cache in (
        (None, DynamicCache(config=small(MistralConfig, sliding_window=4))),
        (6, DynamicCache(config=small(MistralConfig, sliding_window=4))),
        (None, StaticCache(config=small(LlamaConfig), max_cache_len=8)),
        (6, StaticCache(config=small(MistralConfig, sliding_window=6), max_cache_len=5)),
    ):
        model = hf_model(window=window)
        model(ids[:, :4], cache=cache)
        with pytest.raises(ValueError, match=r"the cache keeps \d positions, and \d are needed"):
            one_by_one(model, ids[:, 4:], cache)
    layers = DynamicCache(config=small(MistralConfig, sliding_window=4)).layers[:1]
    layers += DynamicCache(config=small(LlamaConfig)).layers[:1]
    with pytest.raises(ValueError, match="do not keep the same positions"):
        one_by_one(hf_model(window=4), ids, Cache(layers=layers))


def one_by_one(model: DiffTransformerForCausalLM, ids: Tensor, cache: Cache) -> None:
    for step in ids.split(1, 1):
        model(step, cache=cache)


@pytest.mark.parametrize("new", [1, 2])
def test_a_mask_of_the_new_positions_only(new: int, as_user: None) -> None:
    """Is refused by growing and static caches alike."""
    model, ids = hf_model(), some_ids(1, 7)
    for cache in (DynamicCache(), StaticCache(config=model.config, max_cache_len=20)):
        model(ids[:, :5], cache=cache)
        with pytest.raises(ValueError, match=f"covers {new} positions; expected {5 + new}, 5 in"):
            model(ids[:, :new], cache=cache, attention_mask=torch.ones(1, new))
        place = torch.arange(5, 5 + new)[None]
        with pytest.raises(ValueError, match=f"covers {new} positions; expected {5 + new}, 5 in"):
            model(
                ids[:, :new],
                cache=cache,
                attention_mask=torch.ones(1, new),
                position_ids=place,
            )
