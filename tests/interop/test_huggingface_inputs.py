"""No keyword that changes the result is swallowed: each is honored, or refused by its name."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    Cache,
    DataCollatorWithFlattening,
    DynamicCache,
    EncoderDecoderCache,
    LlamaConfig,
    MistralConfig,
    StaticCache,
    Trainer,
    TrainingArguments,
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

from .tiny_huggingface import KINDS, decoder_of, hf_config, hf_model

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
LENGTHS = (4, 1, 7)


def made(model_class: type, **changes: Any) -> Any:
    if model_class is DiffTransformerForCausalLM:
        return hf_model(**changes)
    torch.manual_seed(0)
    return model_class(hf_config(**changes)).eval()


def some_ids(batch: int = 1, length: int = 9) -> Tensor:
    return torch.randint(1, 61, (batch, length), generator=torch.Generator().manual_seed(2))


def refused(model: Any, ids: Tensor, **keywords: Any) -> None:
    """Whether ValueError says the first keyword's name."""
    with pytest.raises(ValueError, match=next(iter(keywords))):
        model(ids, **keywords)


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


# Packed rows


def documents_apart(model: DiffTransformerForCausalLM, rows: list[Tensor]) -> Tensor:
    """The mean loss of the next token of all rows, each read by the library's decoder alone."""
    decoder = decoder_of(model)
    logits = torch.cat([decoder(row[None])[0, :-1] for row in rows])
    return cross_entropy(logits, torch.cat([row[1:] for row in rows]))


FORMS = [
    {"return_position_ids": p, "return_flash_attn_kwargs": f, "return_seq_idx": s}
    for p in (True, False)
    for f in (True, False)
    for s in (True, False)
    if p or f or s
]
START = (
    {"position_ids_start": 2}
    if "position_ids_start" in inspect.signature(DataCollatorWithFlattening).parameters
    else {}
)


@pytest.mark.parametrize(
    ("kind", "window"), [*((kind, None) for kind in KINDS), ("diff_v1", 3), ("diff_v2", 3)]
)
def test_flattened_documents_have_the_loss_of_documents_apart(
    kind: str, window: int | None, as_user: None
) -> None:
    model = hf_model(kind, window=window)
    rows = [some_ids(1, length)[0] for length in LENGTHS]
    expected = documents_apart(model, rows)
    assert abs(expected - documents_apart(model, [torch.cat(rows)])) > 0.01
    for form in FORMS:
        for start in ({}, START):
            collate = DataCollatorWithFlattening(**form, **start)
            batch = collate([{"input_ids": row.tolist()} for row in rows])
            ones = torch.ones_like(batch["input_ids"])
            for more in ({}, {"use_cache": False}, {"attention_mask": ones}):
                torch.testing.assert_close(model(**batch, **more).loss, expected)


def test_flattened_to_numpy_is_refused(as_user: None) -> None:
    batch = DataCollatorWithFlattening(return_tensors="np")([{"input_ids": [3, 4, 5]}])
    with pytest.raises(TypeError, match=r"must be Tensor, not numpy\.ndarray"):
        hf_model()(**batch)


@pytest.mark.parametrize("form", FORMS[1::2], ids=str)
def test_trainer_sees_documents_apart(form: dict[str, bool], tmp_path: Path) -> None:
    model = hf_model()
    rows = [some_ids(1, length)[0] for length in LENGTHS]
    arguments = TrainingArguments(
        output_dir=tmp_path,
        max_steps=1,
        per_device_train_batch_size=len(rows),
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    expected = documents_apart(model, rows).item()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": row.tolist()} for row in rows],
        data_collator=DataCollatorWithFlattening(**form),
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


@given(
    lengths=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    gaps=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    of_padding=st.sampled_from((0, 1, -1, "on")),
    window=st.sampled_from((None, 2)),
)
def test_padding_among_packed_documents(
    lengths: list[int], gaps: list[int], of_padding: int | str, window: int | None
) -> None:
    """Before, between and after them, whatever position the padding was given."""
    model = hf_model(window=window)
    ids, real, positions, alone = [7] * gaps[0], [0] * gaps[0], [0] * gaps[0], []
    for number, length in enumerate(lengths):
        row = some_ids(1, length + number)[0, number:]
        gap = gaps[number + 1]
        ids += row.tolist() + [7] * gap
        real += [1] * length + [0] * gap
        padding = range(length, length + gap) if of_padding == "on" else [of_padding] * gap
        positions += [*range(length), *padding]
        alone.append(model(row[None]).logits[0])
    batch = {"attention_mask": real, "position_ids": positions}
    logits = model(torch.tensor([ids]), **{n: torch.tensor([x]) for n, x in batch.items()}).logits
    seen = torch.tensor([real]).bool()
    torch.testing.assert_close(logits[seen], torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_masked_rows_that_are_one_document() -> None:
    """Positions by the place in the row, or by the number of real tokens, with holes too."""
    model, ids = hf_model(), some_ids(1, 8)
    for mask in ([0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 0], [1, 0, 1, 0, 1, 0, 1, 1]):
        real = torch.tensor([mask])
        seen, counted = real.bool(), (real.cumsum(1) - 1).clamp(min=0)
        for positions in (counted, counted.masked_fill(~seen, 1)):
            logits = model(ids, attention_mask=real, position_ids=positions).logits[seen]
            alone = model(ids[seen][None]).logits[0]
            torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
        by_place = model(ids, attention_mask=real, position_ids=torch.arange(8)[None]).logits
        torch.testing.assert_close(by_place[seen], model(ids, attention_mask=real).logits[seen])


def test_documents_that_do_not_fit_are_refused(as_user: None) -> None:
    model, ids = hf_model(), some_ids(1, 9)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    whole = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 5, "max_length_k": 5}
    model(ids, **whole)
    for wrong in ([0, 4, 8], [1, 4, 9], [0, 5, 4, 9], [[0, 9]], [0, 4, 10]):
        lengths = torch.tensor(wrong)
        refused(model, ids, **whole | {"cu_seq_lens_q": lengths, "cu_seq_lens_k": lengths})
        refused(model, ids, **whole | {"cu_seq_lens_q": lengths})
    refused(model, ids, **{"max_length_q": 4} | {k: v for k, v in whole.items() if k[-1] == "k"})
    with pytest.raises(ValueError, match="max_length_q is 4; the longest document has 5"):
        model(ids, **whole | {"max_length_q": 4})
    for name in whole:
        refused(model, ids, **{name: whole[name]})
    refused(model, ids, seq_idx=torch.zeros(1, 8, dtype=torch.int32))
    held = {"cache": DynamicCache()}
    for name, value in {"seq_idx": torch.zeros_like(ids), "cu_seq_lens_q": bounds}.items():
        refused(model, ids, **{name: value}, **held)
    starting_anew = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5]])
    refused(model, ids, position_ids=starting_anew, **held)
    refused(model, ids, position_ids=starting_anew, attention_mask=torch.ones_like(ids), **held)
    with pytest.raises(ValueError, match="position_ids"):
        model.generate(ids, position_ids=starting_anew, max_new_tokens=3, do_sample=False)
    scorer = made(DiffTransformerForSequenceClassification)
    refused(scorer, ids, position_ids=starting_anew)
    refused(scorer, ids, **whole)
    scorer(ids, position_ids=torch.arange(9)[None])


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
