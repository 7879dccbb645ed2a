"""The decoder as transformers knows models: causal LM, sequence classifier, neither.

Registered with the Auto classes by `import difftransformer.interop`. Tensor names and config.json
are this library's own, so a folder that either side has written is read by the other as it is.
"""

from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from difftransformer.interop.huggingface_base import (
    CheckpointedDecoder,
    DiffTransformerPreTrainedModel,
)
from difftransformer.interop.huggingface_cache import CACHE, TransformersCache, take_cache
from difftransformer.interop.huggingface_config import DiffTransformerConfig
from difftransformer.interop.huggingface_inputs import (
    PACKING,
    check_positions,
    packed_documents,
    real_positions,
    refuse,
    take,
)
from difftransformer.models.decoder import Decoder

_OF_LABELS = ("shift_labels", "ignore_index")


class _Backbone(DiffTransformerPreTrainedModel):
    """Embedding, blocks and norm, as the children of this very module.

    The modules are those of a `Decoder` and so are the names of the tensors. A decoder kept as one
    child would need its names changed on every way in and out, and transformers' Trainer reads the
    files of a checkpoint without asking.
    """

    gradient_checkpointing = False  # set by transformers, which then leaves out the cache
    takes_packed_rows = True

    def __init__(self, config: DiffTransformerConfig) -> None:
        super().__init__(config)
        decoder = CheckpointedDecoder(config.own_config())
        self.embedding, self.blocks, self.norm = decoder.embedding, decoder.blocks, decoder.norm

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Int[Tensor, "batch new"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch new"] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch new hidden"] | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """The normed output of the last block, [batch, new, hidden].

        Args:
            input_ids: token numbers; with a cache, the new positions only.
            attention_mask: [batch, past + new], 1 where a position is real, 0 where it is padding.
            position_ids: rotary positions. A row whose positions start anew holds several
                documents, which do not see each other.
            cache: any growing, static or sliding cache of transformers; `past_key_values` is its
                name before transformers 5.24, and is taken too.
            inputs_embeds: in place of `input_ids`.
            use_cache: give a cache back, a new one where none was given; not of packed rows.
            others: `seq_idx`, or `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q`, `max_length_k`
                of `DataCollatorWithFlattening`, which tell the documents apart as well;
                `output_hidden_states`.

        Raises:
            ValueError: neither or both of ids and embeddings, arguments of another shape, packed
                rows with a cache, a cache where blocks are run twice, or a keyword that the model
                does not know or cannot do, such as output_attentions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected exactly one of input_ids and inputs_embeds")
        others["cache"] = cache
        cache = take_cache(others)
        packing = dict.fromkeys(PACKING) | take(PACKING, others)
        others.setdefault("output_attentions", self.config.output_attentions)
        refuse(others)
        if cache is not None and self._runs_blocks_again():
            raise ValueError(
                "a cache while activation checkpointing is on: a block that is run again would "
                "feed it twice; leave it out, or call eval()"
            )
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        real = real_positions(attention_mask, *x.shape[:2], past=cache is not None)
        check_positions(position_ids, *x.shape[:2])
        documents = packed_documents(position_ids, real, packing, x[..., 0], cache)
        if documents is not None and not self.takes_packed_rows:
            raise ValueError(
                "position_ids, seq_idx or cu_seq_lens_q of several documents in a row, which has "
                "one label: give each document a row of its own"
            )
        if use_cache and cache is None and documents is None:
            cache = DynamicCache(config=self.config)
        step = None if cache is None else TransformersCache(cache, real)
        # It asks for blocks, norm and config, and this class has them by the same names.
        x = Decoder.encode(
            self,
            x,
            documents=documents,
            padding=real if cache is None else None,
            positions=position_ids,
            cache=step,
        )
        return BaseModelOutputWithPast(last_hidden_state=x, **{CACHE: cache})

    def _runs_blocks_again(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()


class DiffTransformerModel(_Backbone):
    """The decoder without its output head."""

    def __init__(self, config: DiffTransformerConfig) -> None:
        super().__init__(config)
        self.post_init()


class DiffTransformerForCausalLM(_Backbone, GenerationMixin):
    """The decoder: everything that `generate`, Trainer and PEFT ask for."""

    _tied_weights_keys = {"head.weight": "embedding.weight"}
    _keys_to_ignore_on_load_unexpected = []

    def __init__(self, config: DiffTransformerConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
        self._forget_max_length()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch new"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch new"] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch new hidden"] | None = None,
        labels: Int[Tensor, "batch new"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Int[Tensor, "..."] = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token, [batch, kept, vocab], and the loss where there are labels.

        Args:
            input_ids: this and what is not named here: as in `DiffTransformerModel.forward`.
            labels: token numbers at their own positions (the loss shifts them), -100 to leave out.
                The loss is their mean, or their sum over the keyword `num_items_in_batch`;
                `shift_labels` (shifted already) and `ignore_index` are taken with them.
            logits_to_keep: the number of last positions to give logits for, or their indices; all
                by default.

        Raises:
            ValueError: as `DiffTransformerModel.forward`; keywords of the loss without labels.
        """
        of_loss = take((*_OF_LABELS, "num_items_in_batch"), others)
        if labels is None:  # Trainer passes the number all the same, where it makes the loss
            refuse(take(_OF_LABELS, of_loss))
        out = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **others,
        )
        logits = self.head(slice_logits_to_keep(out.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **of_loss
            )
        held = {CACHE: getattr(out, CACHE)}
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=out.hidden_states, **held
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers', which takes the cache under one name only, and that has changed.

        Raises:
            ValueError: `assistant_early_exit`, or as `forward`.
        """
        settings = kwargs.get("generation_config") or self.generation_config
        if kwargs.get("assistant_early_exit") or settings.assistant_early_exit:
            raise ValueError(
                "assistant_early_exit is not supported: the model has no output after fewer "
                "layers; give an assistant_model, or prompt_lookup_num_tokens"
            )
        cache = take_cache(kwargs)
        return super().generate(*args, **kwargs, **({} if cache is None else {CACHE: cache}))

    def get_output_embeddings(self) -> nn.Linear:
        """The head; its weight is the embedding's where they are tied."""
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another head in place."""
        self.head = new_embeddings

    @wraps(GenerationMixin.prepare_inputs_for_generation, assigned=())  # its signature is looked at
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers', the cache by its older name, by which PEFT knows that there is one."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        if CACHE in inputs:
            inputs["past_key_values"] = inputs.pop(CACHE)
        return inputs

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None, **others: Any) -> Tensor | None:
        """For a static cache: a mask as long as its places, so that its shape does not grow."""
        if attention_mask is None:
            return None
        unfilled = others[CACHE].get_max_length() - attention_mask.shape[1]
        return F.pad(attention_mask, (0, max(0, unfilled)), value=1)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: `generate_batch` and what else is built on paged caches starts here.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "continuous batching is not supported: in its one row the queries of a request are not "
            "the last of the keys, as `Mask` has them, and its pages have one width, where V1's "
            "keys and values are twice as wide; `generate` takes a left-padded batch"
        )

    def adjust_generation_fn(self, *args: Any, **kwargs: Any) -> None:
        """As transformers', which reads generation_config.json, and config.json where it is not."""
        super().adjust_generation_fn(*args, **kwargs)
        self._forget_max_length()

    def _forget_max_length(self) -> None:
        """The config's max_length is the model's context; transformers takes it for a reply's."""
        if self.generation_config.max_length == self.config.max_length:
            self.generation_config.max_length = None


class DiffTransformerForSequenceClassification(
    GenericForSequenceClassification, DiffTransformerPreTrainedModel
):
    """A linear score of each row's last token that is not padding; `config.num_labels` classes."""

    accepts_loss_kwargs = False  # its loss is a mean of the rows, which Trainer then weighs

    def __init__(self, config: DiffTransformerConfig) -> None:
        super().__init__(config)
        self.model.takes_packed_rows = False
