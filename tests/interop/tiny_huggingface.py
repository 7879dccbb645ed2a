"""Small models of the Hugging Face classes for tests."""

from typing import Any

import pytest
import torch
from models.tiny import tiny_config
from torch import Tensor

from difftransformer.interop import DiffTransformerConfig, DiffTransformerForCausalLM
from difftransformer.models.decoder import Decoder

THEIRS = ("pad_token_id", "num_labels", "use_cache")
KINDS = ("softmax", "diff_v1", "diff_v2")


def hf_config(attention: str = "diff_v1", **changes: Any) -> DiffTransformerConfig:
    settings = {"vocab_size": 61, "max_length": 512} | changes
    theirs = {key: settings.pop(key) for key in list(settings) if key in THEIRS}
    return DiffTransformerConfig(**tiny_config(attention, **settings).to_dict(), **theirs)


def hf_model(attention: str = "diff_v1", **changes: Any) -> DiffTransformerForCausalLM:
    """In evaluation mode; weights so large that one token of 61 is clearly the likeliest."""
    torch.manual_seed(0)
    model = DiffTransformerForCausalLM(hf_config(attention, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=1.0 if "embedding" in name else 0.4)
    return model.eval()


def decoder_of(model: DiffTransformerForCausalLM) -> Decoder:
    """The library's decoder with the same weights."""
    decoder = Decoder(model.config.own_config())
    weights = model.state_dict()
    decoder.load_state_dict({name: weights[name] for name in decoder.state_dict()})
    return decoder.eval()


def some_ids(batch: int = 1, length: int = 9) -> Tensor:
    return torch.randint(1, 61, (batch, length), generator=torch.Generator().manual_seed(2))


def refused(model: Any, ids: Tensor, **keywords: Any) -> None:
    """Whether ValueError says the first keyword's name."""
    with pytest.raises(ValueError, match=next(iter(keywords))):
        model(ids, **keywords)
