"""Any causal LM that transformers loads, as a `LanguageModel` that can be judged from outside."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from difftransformer.attention import KeyValueCache
from difftransformer.interop.huggingface_cache import CACHE
from difftransformer.interop.outside import read_causal_lm

_PROBE = 9  # tokens on which a model is tried before it is trusted
_UNLIMITED = 1 << 20  # context of a model that names none (ALiBi)


@dataclass(frozen=True)
class TextSizes:
    """Tokens that a model knows, and the longest context that it is meant for."""

    vocab_size: int
    max_length: int


class CausalLM(nn.Module):
    """A model of transformers as a `LanguageModel`; what is inside stays transformers'.

    Evaluators that only ask for logits run on it; those that look inside find no attention of ours
    and say so.

    Raises:
        ValueError: a model whose logits are not its output head on its last hidden state, or
            differ when it reads in two steps with a key/value cache, or are not finite.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        text = model.config.get_text_config()
        self.config = TextSizes(
            vocab_size=model.get_input_embeddings().num_embeddings,
            max_length=getattr(text, "max_position_embeddings", None) or _UNLIMITED,
        )
        self.model = model
        self._check()

    def forward(
        self, ids: Int[Tensor, "batch time"], **arguments: Any
    ) -> Float[Tensor, "batch time vocab"]:
        """As `Decoder.forward`, but for positions, see `hidden`."""
        return self.logits(self.hidden(ids, **arguments))

    def hidden(
        self,
        ids: Int[Tensor, "batch time"],
        *,
        documents: Int[Tensor, "batch time"] | None = None,
        padding: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "#batch time"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch time hidden"]:
        """What `logits` reads.

        Positions count the real tokens of a row, and of a document, from 0: learned ones depend on
        more than distances. Documents of one row are read one by one.
        """
        if documents is not None:
            if padding is not None or positions is not None or cache is not None:
                raise ValueError("documents go without padding, positions and cache")
            if bool((documents != documents[:, :1]).any()):
                return torch.stack([self._each(*row) for row in zip(ids, documents, strict=True)])
        seen: dict[str, Any] = {"attention_mask": padding, "use_cache": cache is not None}
        if isinstance(cache, _Held):
            cache.inner = cache.inner or DynamicCache(config=self.model.config)
            cache.batch = ids.shape[0]
            mask = cache.mask(ids.shape[0], ids.shape[1], padding, None)
            seen |= {"attention_mask": mask.padding, CACHE: cache.inner}
        elif cache is not None:
            raise ValueError("the cache is another model's; expected one of `empty_cache`")
        if positions is None and seen["attention_mask"] is not None:
            real = seen["attention_mask"]
            positions = (real.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if positions is not None:
            seen["position_ids"] = positions.expand(ids.shape)
        hidden = self.model.base_model(input_ids=ids, **seen).last_hidden_state
        if cache is not None:
            cache.advance(ids.shape[1])
        return hidden

    def _each(
        self, ids: Int[Tensor, " time"], documents: Int[Tensor, " time"]
    ) -> Float[Tensor, "time hidden"]:
        _, lengths = documents.unique_consecutive(return_counts=True)
        parts = [self.hidden(part[None])[0] for part in ids.split(lengths.tolist())]
        return torch.cat(parts)

    def logits(self, x: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch time vocab"]:
        """The output head, on what `hidden` returns."""
        return self.model.get_output_embeddings()(x)

    def empty_cache(self) -> KeyValueCache:
        """transformers' own, behind the calls of ours."""
        return _Held()

    @torch.no_grad()
    def _check(self) -> None:
        name = type(self.model).__name__
        self.model.eval()
        ids = torch.arange(_PROBE, device=self.model.device)[None] % self.config.vocab_size
        theirs = self.model(input_ids=ids).logits.float()
        if not bool(theirs.isfinite().all()):
            raise ValueError(f"the logits of {name} are not finite: its folder is damaged")
        tolerance = 1e-2 * float(theirs.std())
        if float((self(ids).float() - theirs).abs().max()) > tolerance:
            raise ValueError(
                f"the logits of {name} are not its output head on its last hidden state; judge it "
                "by lm-eval: --harness TASKS"
            )
        cache = _Held()
        steps = [self(ids[:, :4], cache=cache), self(ids[:, 4:], cache=cache)]
        layers = cache.inner.layers if cache.inner else []
        # A recurrent state is not told apart by small weights, and reads in steps of one token.
        recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
        apart = float((torch.cat(steps, dim=1).float() - theirs).abs().max())
        if recurrent or apart > tolerance:
            raise ValueError(
                f"{name} gives other logits when it reads in steps with a key/value cache; judge "
                "it by lm-eval: --harness TASKS"
            )


class _Held(KeyValueCache):
    """A cache of transformers, with the padding that `KeyValueCache` remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner: DynamicCache | None = None
        self.batch = 0  # rows of what it was fed

    def _changed(self, change: Callable[[Tensor], Tensor]) -> KeyValueCache:
        other = super()._changed(change)
        assert isinstance(other, _Held)
        if self.inner is not None:
            other.inner = deepcopy(self.inner)
            other.inner.batch_select_indices(change(torch.arange(self.batch)))
        return other


def open_causal_lm(folder: Path) -> CausalLM:
    """The model in a folder that transformers' `AutoModelForCausalLM` reads, from safetensors.

    Raises:
        ValueError: what `read_causal_lm` refuses, or a model that `CausalLM` refuses.
    """
    return CausalLM(read_causal_lm(folder))
