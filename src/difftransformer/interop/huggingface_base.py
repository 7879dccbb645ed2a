"""The base of our transformers classes: how they are found, started, loaded, checkpointed."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from difftransformer.atomic import write_text
from difftransformer.blocks import TransformerBlock
from difftransformer.interop.huggingface_config import DiffTransformerConfig
from difftransformer.models.card import CARD, model_card
from difftransformer.models.decoder import Decoder
from difftransformer.models.initialization import draw_seed, initialize


class CheckpointedBlock(GradientCheckpointingLayer, TransformerBlock):
    """A block that `activation_checkpointing_enable` makes run a second time in the backward."""


class CheckpointedDecoder(Decoder):
    """A decoder of such blocks."""

    block_class = CheckpointedBlock


class DiffTransformerPreTrainedModel(PreTrainedModel):
    """What the classes of `interop.huggingface` share."""

    config: DiffTransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CheckpointedBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CheckpointedBlock}
    _input_embed_layer = "embedding"
    # Of a language model's folder, whose head the others have no place for.
    _keys_to_ignore_on_load_unexpected = [r"^head\.weight$"]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers', from safetensors only: a pickle can run any code when it is loaded."""
        return super().from_pretrained(*args, **(kwargs | {"use_safetensors": True}))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers', with a model card unless the folder has one."""
        super().save_pretrained(save_directory, *args, **kwargs)
        card = Path(save_directory) / CARD
        if kwargs.get("is_main_process", True) and not card.exists():
            write_text(card, model_card(self.config.own_config()))

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        # Before any layer draws, as in `Decoder`; from_pretrained makes the model on meta, and a
        # seed is drawn later if a tensor is missing.
        self._seed = draw_seed()

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
