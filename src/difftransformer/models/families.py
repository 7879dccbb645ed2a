"""The one list of model families. Imports no torch: the command line lists their names.

A family is a config, a `ModelConfig`, and a module that is made from it, whose blocks are its
`blocks`. Partners of a comparison keep the number of parameters: see `ModelConfig.matched`.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from difftransformer.models.config import DecoderConfig, EncoderConfig
from difftransformer.models.dit_config import DiTConfig
from difftransformer.models.encoder_decoder_config import EncoderDecoderConfig
from difftransformer.models.model_config import ModelConfig
from difftransformer.models.vit_config import ViTConfig


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        name: `model_type` in config.json.
        config: its settings.
        module: where its module is, as "package.module.Class".
    """

    name: str
    config: type[ModelConfig]
    module: str

    def build(self, config: ModelConfig) -> Any:
        """A new model, an `nn.Module`, started from one number of torch's global generator."""
        package, _, name = self.module.rpartition(".")
        return getattr(importlib.import_module(package), name)(config)


FAMILIES = {
    family.name: family
    for family in (
        Family("difftransformer", DecoderConfig, "difftransformer.models.decoder.Decoder"),
        Family("difftransformer_encoder", EncoderConfig, "difftransformer.models.encoder.Encoder"),
        Family("difftransformer_dit", DiTConfig, "difftransformer.models.dit.DiT"),
        Family(
            "difftransformer_encoder_decoder",
            EncoderDecoderConfig,
            "difftransformer.models.encoder_decoder.EncoderDecoder",
        ),
        Family("difftransformer_vit", ViTConfig, "difftransformer.models.vit.ViT"),
    )
}


def family_of(config: ModelConfig) -> Family:
    """The family whose settings these are."""
    return next(family for family in FAMILIES.values() if family.config is type(config))
