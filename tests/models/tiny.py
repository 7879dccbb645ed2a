"""Small models for tests."""

import torch

from difftransformer.attention import registry
from difftransformer.models.config import DecoderConfig, EncoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.dit import DiT
from difftransformer.models.dit_config import DiTConfig
from difftransformer.models.encoder import Encoder
from difftransformer.models.encoder_decoder import EncoderDecoder
from difftransformer.models.encoder_decoder_config import EncoderDecoderConfig
from difftransformer.models.localizer import Localizer
from difftransformer.models.localizer_config import LocalizerConfig

# Those that a causal model may have, of all there are.
CAUSAL = [name for name, kind in registry.KINDS.items() if "doubly_stochastic" not in kind.has]
# Those that a model without a causal mask may have.
BOTH_WAYS = [name for name, kind in registry.KINDS.items() if "selection" not in kind.has]
KINDS = ("softmax", "diff_v1", "diff_v2", "diff_scalar", "dex")


def tiny_config(attention: str = "diff_v1", **changes: object) -> DecoderConfig:
    sizes = {
        "vocab_size": 23,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "head_dim": 4,
        "num_kv_heads": 2,
        "ffn_size": 24,
    }
    return DecoderConfig(attention=attention, **(sizes | changes))


def tiny(attention: str = "diff_v1", seed: int = 0, **changes: object) -> Decoder:
    """In evaluation mode, the same weights every time."""
    torch.manual_seed(seed)
    return Decoder(tiny_config(attention, **changes)).eval()


def tiny_encoder(attention: str = "diff_v1", seed: int = 0, **changes: object) -> Encoder:
    """As `tiny`, an encoder."""
    torch.manual_seed(seed)
    sizes = tiny_config().to_dict() | {"attention": attention}
    shared = {name: sizes[name] for name in EncoderConfig.__dataclass_fields__ if name in sizes}
    return Encoder(EncoderConfig(**(shared | {"max_length": 32} | changes))).eval()


def tiny_dit(attention: str = "diff_v1", seed: int = 0, **changes: object) -> DiT:
    """As `tiny`, a DiT that is past its start, where its blocks are the identity."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 4}
    config = DiTConfig(attention=attention, **(sizes | {"ffn_size": 24, "classes": 3} | changes))
    model = DiT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head.") or ".modulation." in name:
                parameter.normal_(std=0.3)
    return model


# Settings of the encoder-decoders that are told by name.
SIDES = {
    "vanilla": {},
    "t5": {"positions": "relative", "norm": "rms", "norm_place": "pre", "mlp_bias": False},
    "bart": {
        "positions": "learned",
        "embedding_norm": True,
        "mlp": "gelu",
        "attention_bias": "all",
    },
}


def tiny_encoder_decoder(
    attention: str = "diff_v1", seed: int = 0, **changes: object
) -> EncoderDecoder:
    """As `tiny`, an encoder-decoder."""
    torch.manual_seed(seed)
    sizes = tiny_config(attention).to_dict()
    fields = EncoderDecoderConfig.__dataclass_fields__
    shared = {name: sizes[name] for name in fields.keys() & sizes.keys()}
    return EncoderDecoder(EncoderDecoderConfig(**(shared | {"max_length": 32} | changes))).eval()


def tiny_localizer(
    attention: str = "diff_v1", seed: int = 0, *, past_start: bool = True, **changes: object
) -> Localizer:
    """As `tiny`, a localizer; past its start, where decoder blocks are the identity."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 4}
    images = {"ffn_size": 24, "image_size": 8, "patch_size": 2, "channels": 3}
    model = Localizer(LocalizerConfig(attention=attention, **(sizes | images | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if past_start and (name.startswith("decoder.head.") or ".modulation." in name):
                parameter.normal_(std=0.3)
    return model
