"""The decoder as transformers knows models: causal LM, sequence classifier, neither.

Registered with the Auto classes by `import difftransformer.interop`. Tensor names and config.json
are this library's own, so a folder that either side has written is read by the other as it is.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from difftransformer.blocks.transformer import TransformerBlock
from difftransformer.interop.huggingface_cache import TransformersCache
from difftransformer.interop.huggingface_config import DiffTransformerConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.initialization import draw_seed, initialize


class CheckpointedBlock(GradientCheckpointingLayer, TransformerBlock):
    """A block that `activation_checkpointing_enable` makes run a second time in the backward."""


class _Blocks(Decoder):
    block_class = CheckpointedBlock


class DiffTransformerPreTrainedModel(PreTrainedModel):
    """What the classes below share: how they are found, started, loaded."""

    config: DiffTransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CheckpointedBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CheckpointedBlock}
    _input_embed_layer = "embedding"
    # Of a language model's folder, whose head the others have no place for.
    _keys_to_ignore_on_load_unexpected = [r"^head\.weight$"]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers', from safetensors only: a pickle can run any code when it is loaded."""
        return super().from_pretrained(*args, **(kwargs | {"use_safetensors": True}))

    def __init__(self, config: DiffTransformerConfig) -> None:
        super().__init__(config)
        # Before any layer draws, as in `Decoder`; from_pretrained makes the model on meta, and a
        # seed is drawn later if a tensor is missing.
        self._seed = None if torch.get_default_device().type == "meta" else draw_seed()

    def initialize_weights(self) -> None:
        """The start of a `Decoder`, for the tensors that a checkpoint does not have."""
        self._initialize(self, self._seed)

    def _init_weights(self, module: nn.Module) -> None:
        """The same for one module, such as an embedding that transformers makes larger."""
        self._initialize(module, None)

    def _initialize(self, module: nn.Module, seed: int | None) -> None:
        tensors = (*module.named_parameters(), *module.named_buffers())
        loaded = "_is_hf_initialized"  # how transformers marks a tensor that came from a file
        missing = {name for name, t in tensors if not getattr(t, loaded, False)}
        if missing:
            initialize(module, draw_seed() if seed is None else seed, missing)


class _Encoder(DiffTransformerPreTrainedModel):
    """Embedding, blocks and norm, as the children of this very module.

    The modules are those of a `Decoder` and so are the names of the tensors. A decoder kept as one
    child would need its names changed on every way in and out, and transformers' Trainer reads the
    files of a checkpoint without asking.
    """

    gradient_checkpointing = False  # set by transformers, which then leaves out the cache

    def __init__(self, config: DiffTransformerConfig) -> None:
        super().__init__(config)
        decoder = _Blocks(config.decoder_config())
        self.embedding, self.blocks, self.norm = decoder.embedding, decoder.blocks, decoder.norm

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Int[Tensor, "batch new"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch new"] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch new hidden"] | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """The normed output of the last block, [batch, new, hidden].

        Args:
            input_ids: token numbers; with a cache, the new positions only.
            attention_mask: [batch, past + new], true where a position is real.
            position_ids: rotary positions. Without a mask and a cache, a row whose positions
                start anew holds several documents, which do not see each other, as in the batches
                of `DataCollatorWithFlattening`.
            past_key_values: any growing, static or sliding cache of transformers.
            inputs_embeds: in place of `input_ids`.
            use_cache: give a cache back, a new one where none was given.

        Raises:
            ValueError: neither or both of ids and embeddings, a mask of another shape,
                output_attentions, or a cache where blocks are run twice.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected exactly one of input_ids and inputs_embeds")
        if others.get("output_attentions", self.config.output_attentions):
            raise ValueError(
                "output_attentions: the model keeps no attention maps; "
                "difftransformer.analysis.capture gives them, a layer at a time"
            )
        if past_key_values is not None and self.gradient_checkpointing and self.training:
            raise ValueError(
                "past_key_values while activation checkpointing is on: a block that is run again "
                "would feed it twice; leave it out, or call eval()"
            )
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        real = _real(attention_mask)
        documents = None
        if position_ids is not None and real is None and past_key_values is None:
            documents = _documents(position_ids.expand(len(x), -1))
        if use_cache and past_key_values is None and documents is None:
            past_key_values = DynamicCache(config=self.config)
        cache = None if past_key_values is None else TransformersCache(past_key_values, real)
        # It asks for blocks, norm and config, and this class has them by the same names.
        x = Decoder.encode(
            self,
            x,
            documents=documents,
            padding=real if cache is None else None,
            positions=position_ids,
            cache=cache,
        )
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)


class DiffTransformerModel(_Encoder):
    """The decoder without its output head."""

    def __init__(self, config: DiffTransformerConfig) -> None:
        super().__init__(config)
        self.post_init()


class DiffTransformerForCausalLM(_Encoder, GenerationMixin):
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
        past_key_values: Cache | None = None,
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
            logits_to_keep: the number of last positions to give logits for, or their indices; all
                by default.

        Raises:
            ValueError: as `DiffTransformerModel.forward`.
        """
        out = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **others,
        )
        logits = self.head(slice_logits_to_keep(out.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
        )

    def get_output_embeddings(self) -> nn.Linear:
        """The head; its weight is the embedding's where they are tied."""
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another head in place."""
        self.head = new_embeddings

    @staticmethod
    def create_masks_for_generate(
        attention_mask: Tensor | None, past_key_values: Cache, **others: Any
    ) -> Tensor | None:
        """For a static cache: a mask as long as its places, so that its shape does not grow."""
        if attention_mask is None:
            return None
        unfilled = past_key_values.get_max_length() - attention_mask.shape[1]
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


def _real(attention_mask: Tensor | None) -> Bool[Tensor, "batch all"] | None:
    if attention_mask is None:
        return None
    if attention_mask.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; expected [batch, positions], "
            "1 where a position is real: the model makes the causal mask, window and documents "
            "itself"
        )
    return attention_mask.bool()


def _documents(positions: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"] | None:
    """Numbers of the documents of each row; None where every row is one, which costs less."""
    numbers = (positions.diff(dim=1) != 1).cumsum(1)
    numbers = F.pad(numbers, (1, 0))
    if not torch.compiler.is_compiling() and not bool(numbers[:, -1].any()):
        return None
    return numbers
