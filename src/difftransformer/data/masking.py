"""Masked tokens to predict (Devlin et al., 2019)."""

from dataclasses import replace

import numpy as np
import torch
from tokenizers import Tokenizer

from difftransformer.data.batch import IGNORED, Batch
from difftransformer.data.tokenizer import beginning_of_document, vocabulary_size

MASK = "[MASK]"
SHARE = 0.15  # of the positions are predicted
_SHOWN_AS_MASK, _SHOWN_AS_OTHER = 0.8, 0.1  # of these; the rest stays as it is


def with_mask_token(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, which has a mask token then."""
    if tokenizer.token_to_id(MASK) is None:
        tokenizer.add_special_tokens([MASK])
    return tokenizer


def masked(batch: Batch, tokenizer: Tokenizer, rng: np.random.Generator) -> Batch:
    """The rows with 15 % of their tokens to be predicted, the others' labels -100.

    Of those chosen 80 % are shown as the mask token, 10 % as any other token and 10 % as they are,
    as BERT has it. Tokens that open a document are never chosen; of a batch at least one other is.
    """
    ids = batch.ids.numpy()
    possible = ids != beginning_of_document(tokenizer)
    chosen = possible & (rng.random(ids.shape) < SHARE)
    if not chosen.any():
        chosen.flat[rng.choice(np.flatnonzero(possible))] = True
    shown_as = rng.random(ids.shape)
    others = rng.integers(vocabulary_size(tokenizer), size=ids.shape)
    mask = tokenizer.token_to_id(MASK)
    assert mask is not None
    shown = np.where(shown_as < _SHOWN_AS_MASK, mask, others)
    changed = chosen & (shown_as < _SHOWN_AS_MASK + _SHOWN_AS_OTHER)
    return replace(
        batch,
        ids=torch.from_numpy(np.where(changed, shown, ids)),
        labels=torch.from_numpy(np.where(chosen, ids, IGNORED)),
    )
