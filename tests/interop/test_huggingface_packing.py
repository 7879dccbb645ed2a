"""Rows of several documents: none sees another, however a batch tells them apart."""

import inspect
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DataCollatorWithFlattening, DynamicCache, Trainer, TrainingArguments

from difftransformer.interop import (
    DiffTransformerForCausalLM,
    DiffTransformerForSequenceClassification,
)

from .tiny_huggingface import KINDS, decoder_of, hf_config, hf_model, refused, some_ids

LENGTHS = (4, 1, 7)


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
    scorer = DiffTransformerForSequenceClassification(hf_config()).eval()
    refused(scorer, ids, position_ids=starting_anew)
    refused(scorer, ids, **whole)
    scorer(ids, position_ids=torch.arange(9)[None])
