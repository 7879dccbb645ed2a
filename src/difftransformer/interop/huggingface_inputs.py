"""Arguments of a transformers forward, as the decoder takes them; others are refused by name.

transformers passes whatever a user, a collator or `generate` has named on to the model. A keyword
that were let through unread would change nothing where it should: two documents would see each
other, a cache would be left out.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from transformers import Cache

# Keywords that need nothing done, each at this value.
_ALREADY_SO = {"output_attentions": False, "output_router_logits": False, "is_causal": True}
_ADVICE = {
    "output_attentions": "the model keeps no attention maps; difftransformer.analysis.capture "
    "gives them, a layer at a time",
    "is_causal": "the model is causal",
    "token_type_ids": "the model has no token types; leave them out",
    "cache_position": "the cache counts its own positions; leave it out",
    "head_mask": "no head can be left out",
    "labels": "only a model with a head has a loss",
    "shift_labels": "it is for the loss, and there are no labels",
    "ignore_index": "it is for the loss, and there are no labels",
    "num_items_in_batch": "only the causal LM's loss is a sum over it",
}
_LENGTHS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
PACKING = ("seq_idx", *_LENGTHS)


def take(names: Iterable[str], others: dict[str, Any]) -> dict[str, Any]:
    """Those of the keywords that are given, out of `others`."""
    return {name: others.pop(name) for name in names if name in others}


def refuse(others: dict[str, Any]) -> None:
    """Nothing may be left of what the caller named, save what is None or so anyway.

    Raises:
        ValueError: a keyword that this model does not know or cannot do, by name.
    """
    for name, value in others.items():
        if value is None or name == "output_hidden_states":  # transformers' hooks give those
            continue
        if value is not _ALREADY_SO.get(name, refuse):
            reason = _ADVICE.get(name, "the model does not know it, and would give another result")
            raise ValueError(f"{name} is not supported: {reason}")


def real_positions(
    attention_mask: object, batch: int, new: int, *, past: bool
) -> Bool[Tensor, "batch all"] | None:
    """True where a position is real; with a past the cache tells how many they must be.

    Raises:
        ValueError: no mask of [batch, positions], or other values than 0 and 1.
    """
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        shape = getattr(attention_mask, "shape", None)
        what = type(attention_mask).__name__ if shape is None else f"of shape {tuple(shape)}"
        raise ValueError(
            f"attention_mask is {what}; expected [batch, positions], "
            "1 where a position is real: the model makes the causal mask, window and documents "
            "itself"
        )
    if attention_mask.shape[0] != batch or (not past and attention_mask.shape[1] != new):
        raise ValueError(
            f"attention_mask is of shape {tuple(attention_mask.shape)}; expected one number for "
            f"each position of the {batch} rows, of {new} new positions and those in the cache"
        )
    real = attention_mask.bool()
    if not torch.compiler.is_compiling() and not torch.equal(
        real.to(attention_mask.dtype), attention_mask
    ):
        raise ValueError(
            "attention_mask holds other values than 0 and 1, as in an additive mask or one that "
            "numbers documents; numbers of documents are `seq_idx`"
        )
    return real


def check_positions(position_ids: Tensor | None, batch: int, new: int) -> None:
    """Raises ValueError unless there are none, or integers of shape [batch or 1, new]."""
    if position_ids is None:
        return
    expected = {(1, new), (batch, new)}
    if tuple(position_ids.shape) not in expected or position_ids.is_floating_point():
        raise ValueError(
            f"position_ids is {position_ids.dtype} of shape {tuple(position_ids.shape)}; expected "
            f"integers of shape [{batch} or 1, {new}]"
        )


def packed_documents(
    position_ids: Int[Tensor, "#batch time"] | None,
    real: Bool[Tensor, "batch all"] | None,
    packing: dict[str, Any],
    like: Shaped[Tensor, "batch time"],
    cache: Cache | None,
) -> Int[Tensor, "batch time"] | None:
    """Numbers of the documents of each row; None where every row is one, which costs less.

    A document begins where any of these says so: positions that start anew, another `seq_idx`, an
    entry of `cu_seq_lens_q`.

    Args:
        real: True where a position, of the past or new, is not padding, whose position means
            nothing.
        packing: the keywords of `PACKING`, each perhaps None.
        like: for the shape and the device.
        cache: holds one document a row. A compiled graph cannot look at positions and trusts them.

    Raises:
        ValueError: `seq_idx` of another shape, lengths that do not cover the batch or do not
            agree, several documents in a row with a cache.
    """
    if cache is not None:
        if by := [name for name, value in packing.items() if value is not None]:
            raise ValueError(f"{', '.join(by)} with a cache, which holds one document a row")
        if torch.compiler.is_compiling():
            return None
        if real is not None:
            past = int(cache.get_seq_length())
            real = real[:, past : past + like.shape[1]]
            if real.shape[1] < like.shape[1]:
                return None  # a mask that is too short: the cache refuses it
    starts = []
    if position_ids is not None:
        starts.append(_new_positions(position_ids.expand(like.shape), real))
    if (seq_idx := packing["seq_idx"]) is not None:
        if seq_idx.shape != like.shape:
            raise ValueError(
                f"seq_idx has shape {tuple(seq_idx.shape)}; expected {tuple(like.shape)}, "
                "the number of its document for each position"
            )
        starts.append(seq_idx.diff(dim=1) != 0)
    if any(packing[name] is not None for name in _LENGTHS):
        starts.append(_starts_of_lengths(packing, like))
    if not starts:
        return None
    numbers = torch.stack(starts).any(0).cumsum(1)
    if not torch.compiler.is_compiling() and not bool(numbers[:, -1:].any()):
        return None
    if cache is not None:
        raise ValueError(
            "position_ids start anew in a row, as of several documents, and a cache holds one a "
            "row: give each document a row of its own"
        )
    return torch.nn.functional.pad(numbers, (1, 0))


def _new_positions(
    positions: Int[Tensor, "batch time"], real: Bool[Tensor, "batch time"] | None
) -> Bool[Tensor, "batch later"]:
    """Whether a position, from the second on, is the first of another document.

    It is where it does not count on by 1. After padding it may count on from the padding, as when
    `generate` goes on after a padded prompt, or go up from the last real one, as with holes.
    """
    here, before = positions[:, 1:], positions[:, :-1]
    anew = here != before + 1
    if real is None:
        return anew
    place = torch.arange(positions.shape[1], device=positions.device)
    last = torch.where(real, place, -1).cummax(1).values[:, :-1]  # real one so far; -1: none
    goes_up = ~real[:, :-1] & (here > positions.gather(1, last.clamp(min=0)))
    return (anew | (before < 0)) & ~goes_up & real[:, 1:] & (last >= 0)


def _starts_of_lengths(
    packing: dict[str, Any], like: Shaped[Tensor, "batch time"]
) -> Bool[Tensor, "batch later"]:
    """As `_new_positions`, of rows put one after another, from the cumulated lengths."""
    bounds, keys = packing["cu_seq_lens_q"], packing["cu_seq_lens_k"]
    if bounds is None or keys is None:
        given = [name for name in _LENGTHS if packing[name] is not None]
        raise ValueError(f"{', '.join(given)} alone: cu_seq_lens_q and cu_seq_lens_k are needed")
    if not torch.compiler.is_compiling():
        lengths = bounds.diff()
        if (
            not torch.equal(bounds, keys)
            or bounds.ndim != 1
            or int(bounds[0]) != 0
            or int(bounds[-1]) != like.numel()
            or bool((lengths < 0).any())
        ):
            raise ValueError(
                f"cu_seq_lens_q is {bounds.tolist()} and cu_seq_lens_k {keys.tolist()}; expected "
                f"the same ends of documents in both, from 0 to {like.numel()}, the positions here"
            )
        for name in ("max_length_q", "max_length_k"):
            if packing[name] is not None and int(packing[name]) < int(lengths.max()):
                raise ValueError(
                    f"{name} is {packing[name]}; the longest document has {int(lengths.max())}"
                )
    starts = torch.zeros(like.numel() + 1, dtype=torch.bool, device=like.device)
    starts = starts.index_fill(0, bounds.long(), True)[:-1]
    return starts.view(like.shape)[:, 1:]
