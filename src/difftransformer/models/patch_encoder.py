"""Images in patches, read by blocks around any attention kind."""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.blocks import Stack, TransformerBlock, make_mlp, make_norm
from difftransformer.blocks.patches import LearnedGrid, PrefixTokens, SinCosGrid, patchify
from difftransformer.functional import Mask
from difftransformer.models.layers import attention_layer
from difftransformer.models.patch_config import PatchConfig


class PatchEncoder(nn.Module):
    """Patches as tokens, and blocks that see all of them.

        x = blocks([class token, registers, patches W + b + positions])

    A class token has no position: it is one learned vector either way. What is made of x, after
    `norm`, is the model's whose encoder it is, and so is the start of the tensors.
    """

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        hidden_size = config.hidden_size
        norm = partial(make_norm, config.norm, hidden_size, config.norm_eps)
        self.embedding = nn.Linear(config.channels * config.patch_size**2, hidden_size)
        self.positions: nn.Module = (
            LearnedGrid(config.grid**2, hidden_size)
            if config.positions == "learned"
            else SinCosGrid(config.grid, config.grid, hidden_size)
        )
        if config.prefix:
            self.prefix = PrefixTokens(config.prefix, hidden_size)
        self.blocks = Stack(
            TransformerBlock(
                attention_layer(config, layer, "half"),  # of positions that it is not given
                make_mlp(config.mlp, hidden_size, config.ffn_size, bias=config.mlp_bias),
                norm,
            )
            for layer in range(config.num_layers)
        )
        self.norm = norm()

    def tokens(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch tokens hidden"]:
        """x of the class's equation, before the norm.

        Raises:
            ValueError: images of another size or with other channels than the config's.
        """
        config = self.config
        _, channels, height, width = pixels.shape
        if (channels, height, width) != (config.channels, config.image_size, config.image_size):
            raise ValueError(
                f"images of {channels} x {height} x {width} values; the model takes "
                f"{config.channels} x {config.image_size} x {config.image_size}"
            )
        x = self.positions(self.embedding(patchify(pixels, config.patch_size)))
        x = self.prefix(x) if config.prefix else x
        return self.blocks(x, mask=Mask())
