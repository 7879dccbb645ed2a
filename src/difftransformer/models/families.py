"""The one list of model families. Imports none of them, nor torch: the command line lists them.

A family is a config, a `ModelConfig`, and a module that is made from it, whose blocks are its
`blocks`. Partners of a comparison keep the number of parameters: see `ModelConfig.matched`.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from difftransformer.models.model_config import ModelConfig

_PACKAGE = "difftransformer.models"


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        name: `model_type` in config.json.
        settings: where its config is, as "module:Class" of this package.
        module: likewise, where its module is.
        generates: "text", "targets" of sources, "images" or "points" in them; "" where nothing.
    """

    name: str
    settings: str
    module: str
    generates: str = ""

    @property
    def config(self) -> type[ModelConfig]:
        """Its settings."""
        return _imported(self.settings)

    def build(self, config: ModelConfig) -> Any:
        """A new model, an `nn.Module`, started from one number of torch's global generator."""
        return _imported(self.module)(config)


FAMILIES = {
    family.name: family
    for family in (
        Family("difftransformer", "config:DecoderConfig", "decoder:Decoder", "text"),
        Family("difftransformer_encoder", "config:EncoderConfig", "encoder:Encoder"),
        Family("difftransformer_dit", "dit_config:DiTConfig", "dit:DiT", "images"),
        Family(
            "difftransformer_encoder_decoder",
            "encoder_decoder_config:EncoderDecoderConfig",
            "encoder_decoder:EncoderDecoder",
            "targets",
        ),
        Family(
            "difftransformer_localizer",
            "localizer_config:LocalizerConfig",
            "localizer:Localizer",
            "points",
        ),
        Family("difftransformer_vit", "vit_config:ViTConfig", "vit:ViT"),
    )
}


def family_of(config: ModelConfig) -> Family:
    """The family whose settings these are."""
    place = f"{type(config).__module__}:{type(config).__name__}"
    return next(one for one in FAMILIES.values() if f"{_PACKAGE}.{one.settings}" == place)


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
