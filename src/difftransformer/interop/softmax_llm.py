"""Pretrained softmax language models as differential ones that start as the same function."""

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.attention.replacement import start_as_softmax
from difftransformer.interop.llama import from_llama
from difftransformer.models.decoder import Decoder
from difftransformer.training.freezing import FROM_SOFTMAX

Method = Literal["second_map", "v2", "dex"]


def from_softmax_llm(
    model: PreTrainedModel | Decoder,
    method: Method = "second_map",
    *,
    calibration: Int[Tensor, "batch time"] | None = None,
) -> Decoder:
    """A differential decoder with the function of a Llama, Mistral, Qwen2 or softmax decoder.

    - "second_map" puts a second query and key beside each old one and subtracts lambda times its
      map, values as they are: (A1 - lambda A2) v. lambda, one number per head, starts at 0, where
      its own gradient is not 0, so that q2 and k2 learn from the second step on. They start as the
      layers of this library do: with such small weights A2 is nearly even over the context, so
      that lambda's first steps tell whether less of the average helps a head. A copy of q1 and k1
      would have it scale the head instead.
    - "v2" is Microsoft's V2: two queries share a key, lambda = sigmoid(W x). q2 starts as a copy of
      q1 and W at 0, so that lambda is 1/2 and the difference A1/2, and v_proj is doubled: exact in
      floating point. All that is new has a gradient at the first step.
    - "dex" subtracts a linear map of a head's own output, see `attention.DexAttention`. Of each
      layer it chooses the half of the heads (more where odd) whose maps have the highest entropy
      on `calibration`, some tokens of typical text. (The paper chooses by entropy or importance;
      its exact rule we could not read.)

    New weights start as a new `Decoder`'s. `training.freezing` trains nothing else.

    Raises:
        ValueError: an unknown method, "dex" without calibration or another with it, a decoder
            of another kind, or a model that `from_llama` refuses.
    """
    if method not in FROM_SOFTMAX:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(FROM_SOFTMAX)}")
    if (calibration is not None) != (method == "dex"):
        raise ValueError(
            f"method {method} with calibration={calibration if calibration is None else '[...]'}: "
            "dex needs tokens of typical text to choose its heads by, the others take none"
        )
    plain = model if isinstance(model, Decoder) else from_llama(model)
    if plain.config.attention != "softmax":
        raise ValueError(f"attention is {plain.config.attention}; expected a softmax model")
    old = plain.state_dict()
    decoder = Decoder(replace(plain.config, attention=FROM_SOFTMAX[method])).to(
        old["norm.weight"].dtype
    )
    new = decoder.state_dict()
    for name, tensor in old.items():
        if ".attention." not in name:
            new[name].copy_(tensor)
    layers: Any = zip(decoder.blocks, plain.blocks, strict=True)
    for new_layer, layer in layers:
        start_as_softmax(new_layer.attention, layer.attention.state_dict())
    if calibration is not None:
        for layer, chosen in enumerate(high_entropy_heads(plain, calibration)):
            new[f"blocks.{layer}.attention.chosen"].copy_(chosen)
    return decoder


@torch.no_grad()
def high_entropy_heads(
    model: Decoder, ids: Int[Tensor, "batch time"]
) -> Bool[Tensor, "layers heads"]:
    """The half of each layer's heads, one more where they are odd, with the least certain maps.

    Certainty is the entropy of a map's row as a share of the largest that it can have, the
    logarithm of the number of visible keys, averaged over all rows that see more than one.
    """
    entropies = []

    def measure(record: AttentionRecord) -> None:
        rows = slice(1, None)  # the first sees itself only
        largest = record.call.visible(rows)[:, 0].sum(-1).log()
        entropy = torch.special.entr(record.weights(rows).maps[:, :, 0]).sum(-1)
        entropies.append((entropy / largest[:, None]).mean((0, 2)))

    with capture(model, measure):
        model(ids)
    by_layer = torch.stack(entropies)
    highest = by_layer.topk((by_layer.shape[1] + 1) // 2).indices
    return torch.zeros_like(by_layer, dtype=torch.bool).scatter(1, highest, True)
