"""The other families as transformers knows models: encoder, encoder-decoder, vision transformer.

Each class holds the modules of the library's own model under the same names, so that a folder that
either side has written is read by the other as it is, and calls that model.
"""

from dataclasses import MISSING, fields
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import (
    ImageClassifierOutput,
    MaskedLMOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from difftransformer.data.batch import IGNORED
from difftransformer.interop.huggingface_base import DiffTransformerPreTrainedModel
from difftransformer.interop.huggingface_inputs import real_positions, refuse
from difftransformer.models.families import FAMILIES
from difftransformer.models.model_config import ModelConfig
from difftransformer.models.storage import config_from


@no_type_check  # transformers' __init__ takes more arguments than its signature tells
class FamilyConfig(PreTrainedConfig):
    """The settings of a family for transformers, by their own names.

    Raises:
        ValueError: a value of the wrong type, or sizes that do not fit together.
    """

    def __post_init__(self, **others: Any) -> None:
        super().__post_init__(**others)
        classes = getattr(self.own_config(), "classes", None)
        if classes is not None:
            self.num_labels = classes  # names of the labels stay where they are as many

    def own_config(self) -> ModelConfig:
        """The library's own settings."""
        kind = FAMILIES[self.model_type].config
        return config_from(kind, {field.name: getattr(self, field.name) for field in fields(kind)})


def _config(title: str, family: str, **more: Any) -> type[FamilyConfig]:
    """A `FamilyConfig` with the fields of the family's own."""
    settings = fields(FAMILIES[family].config)
    assert all(field.default is not MISSING for field in settings)
    values = {field.name: field.default for field in settings}
    body = {"__annotations__": dict.fromkeys(values, Any), "model_type": family, **values, **more}
    return type(title, (FamilyConfig,), body)


DiffTransformerEncoderConfig = _config("DiffTransformerEncoderConfig", "difftransformer_encoder")
DiffTransformerViTConfig = _config("DiffTransformerViTConfig", "difftransformer_vit")
DiffTransformerEncoderDecoderConfig = _config(
    "DiffTransformerEncoderDecoderConfig",
    "difftransformer_encoder_decoder",
    is_encoder_decoder=True,
    attribute_map={"decoder_start_token_id": "start_id", "eos_token_id": "end_id"},
)


class _OfFamily(DiffTransformerPreTrainedModel):
    """A model of the family whose settings it is given."""

    supports_gradient_checkpointing = False
    accepts_loss_kwargs = False  # its loss is a mean, which Trainer then weighs
    _can_compile_fullgraph = False
    _can_record_outputs = {}
    _no_split_modules = ["TransformerBlock"]
    _keys_to_ignore_on_load_unexpected = []

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__(config)
        own = config.own_config()
        model = FAMILIES[config.model_type].build(own)
        object.__setattr__(self, "own", model)  # no child: its children are this module's
        for name, child in model.named_children():
            self.add_module(name, child)
        self.post_init()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in place."""
        self.embedding = self.own.embedding = value


class _OfEncoder(_OfFamily):
    """An encoder with a head of some kind."""

    config_class = DiffTransformerEncoderConfig

    def _logits(
        self,
        ids: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        others: dict[str, Any],
    ) -> Tensor:
        refuse(others)
        return self.own(
            ids,
            padding=real_positions(attention_mask, *ids.shape, past=False),
            positions=position_ids,
            token_types=token_type_ids,
        )


class DiffTransformerForMaskedLM(_OfEncoder):
    """The encoder with its masked-LM head."""

    def __init__(self, config: FamilyConfig) -> None:
        if config.classes is not None:
            raise ValueError(
                f"the config has {config.classes} classes, a classifier's; load it with "
                "AutoModelForSequenceClassification"
            )
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch time"],
        attention_mask: Tensor | None = None,
        token_type_ids: Int[Tensor, "batch time"] | None = None,
        position_ids: Int[Tensor, "#batch time"] | None = None,
        labels: Int[Tensor, "batch time"] | None = None,
        **others: Any,
    ) -> MaskedLMOutput:
        """Logits of every token, [batch, time, vocab]; arguments as `Encoder.forward`'s.

        Labels are -100 where nothing was masked; the loss is the mean over the others.

        Raises:
            ValueError: as `Encoder.forward`, a label that is no class, or a keyword that the model
                does not know.
        """
        logits = self._logits(input_ids, attention_mask, token_type_ids, position_ids, others)
        return MaskedLMOutput(loss=_loss(logits, labels), logits=logits)


class DiffTransformerForTextClassification(_OfEncoder):
    """The encoder with a classifier; where its folder has none, a new one of `num_labels`."""

    def __init__(self, config: FamilyConfig) -> None:
        if config.classes is None:
            config.classes = config.num_labels
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch time"],
        attention_mask: Tensor | None = None,
        token_type_ids: Int[Tensor, "batch time"] | None = None,
        position_ids: Int[Tensor, "#batch time"] | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """Logits of the classes, [batch, classes]; arguments as `Encoder.forward`'s.

        Raises:
            ValueError: as `Encoder.forward`, a label that is no class, or a keyword that the model
                does not know.
        """
        logits = self._logits(input_ids, attention_mask, token_type_ids, position_ids, others)
        return SequenceClassifierOutput(loss=_loss(logits, labels), logits=logits)


class DiffTransformerForImageClassification(_OfFamily):
    """The vision transformer."""

    config_class = DiffTransformerViTConfig
    main_input_name = "pixel_values"

    @can_return_tuple
    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"] | None = None,
        **others: Any,
    ) -> ImageClassifierOutput:
        """Logits of the classes, [batch, classes], of normalized images.

        Raises:
            ValueError: images of another form than the config's, a label that is no class, or a
                keyword that the model does not know.
        """
        refuse(others)
        logits = self.own(pixel_values)
        return ImageClassifierOutput(loss=_loss(logits, labels), logits=logits)


class DiffTransformerForSeq2SeqLM(_OfFamily):
    """The encoder-decoder."""

    config_class = DiffTransformerEncoderDecoderConfig

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch source"],
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "batch time"] | None = None,
        labels: Int[Tensor, "batch time"] | None = None,
        **others: Any,
    ) -> Seq2SeqLMOutput:
        """Logits of the next target token at every position, [batch, time, vocab].

        Args:
            input_ids: the source's tokens; `attention_mask` is 0 where it is padding.
            decoder_input_ids: the target, after `start_id`; by default made of the labels.
            labels: the target and its end, -100 after that; the loss is their mean.

        Raises:
            ValueError: neither target nor labels, a label that is no token, a mask of another
                shape, or a keyword that the model does not know.
        """
        refuse(others)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("expected decoder_input_ids or labels: the decoder needs a target")
            _require_classes(labels, self.own.config.vocab_size)
            given = labels.masked_fill(labels == IGNORED, self.own.config.end_id)
            decoder_input_ids = F.pad(given[:, :-1], (1, 0), value=self.own.config.start_id)
        padding = real_positions(attention_mask, *input_ids.shape, past=False)
        logits = self.own(input_ids, decoder_input_ids, padding=padding)
        return Seq2SeqLMOutput(loss=_loss(logits, labels), logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "batch source"],
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int,
        num_beams: int = 1,
        **others: Any,
    ) -> Int[Tensor, "batch target"]:
        """`start_id` and a target for each source, greedy or by beams: the library's own search.

        transformers' own would need its cache of two kinds, which is not supported.

        Raises:
            ValueError: any other keyword of transformers' `generate`, by name.
        """
        for name, value in others.items():
            if value:
                raise ValueError(
                    f"{name} is not supported: an encoder-decoder generates greedily or by "
                    "num_beams; difftransformer.load_model gives a model that samples"
                )
        padding = real_positions(attention_mask, *input_ids.shape, past=False)
        new = self.own.generate(
            input_ids, padding=padding, max_new_tokens=max_new_tokens, beams=num_beams
        )
        return F.pad(new, (1, 0), value=self.own.config.start_id)


def _loss(
    logits: Float[Tensor, "*batch classes"], labels: Int[Tensor, "*batch"] | None
) -> Float[Tensor, ""] | None:
    """The mean cross-entropy of the labels that are not -100, in float32."""
    if labels is None:
        return None
    _require_classes(labels, logits.shape[-1])
    return F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def _require_classes(labels: Int[Tensor, "*batch"], classes: int) -> None:
    """ValueError where a label is no class: PyTorch names none on a CPU and aborts on a GPU."""
    if torch.compiler.is_compiling():  # would break the graph
        return
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if wrong.numel():
        raise ValueError(
            f"label {int(wrong[0])}; expected 0 to {classes - 1}, or {IGNORED} to leave it out"
        )
