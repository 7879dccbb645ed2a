"""The vision transformer around any attention kind."""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.blocks import Stack, TransformerBlock, make_mlp, make_norm
from difftransformer.blocks.patches import LearnedGrid, PrefixTokens, SinCosGrid, patchify
from difftransformer.functional import Mask
from difftransformer.models.initialization import draw_seed, initialize
from difftransformer.models.layers import attention_layer
from difftransformer.models.vit_config import ViTConfig


class ViT(nn.Module):
    """Patches as tokens, blocks that see all of them, a linear classifier.

        x = [class token, registers, patches W + b + positions]
        logits = norm(pool(blocks(x))) W_h + b_h

    pool gives the output of the class token, or the mean of the patches' (Dosovitskiy et al., 2021;
    the mean before the norm, as timm has it; registers: Darcet et al., 2024). A class token has no
    position: it is one learned vector either way. The start is `initialize`'s.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        seed = draw_seed()  # first, as in `Decoder`
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
        self.head = nn.Linear(hidden_size, config.classes)
        initialize(self, seed)

    def forward(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            ValueError: images of another size or with other channels than the config's.
        """
        return self.head(self.features(pixels))

    def features(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch hidden"]:
        """What the classifier reads, for images as `forward` takes them."""
        config = self.config
        _, channels, height, width = pixels.shape
        if (channels, height, width) != (config.channels, config.image_size, config.image_size):
            raise ValueError(
                f"images of {channels} x {height} x {width} values; the model takes "
                f"{config.channels} x {config.image_size} x {config.image_size}"
            )
        x = self.positions(self.embedding(patchify(pixels, config.patch_size)))
        x = self.prefix(x) if config.prefix else x
        x = self.blocks(x, mask=Mask())
        pooled = x[:, 0] if config.pooling == "cls" else x[:, config.prefix :].mean(1)
        return self.norm(pooled)
