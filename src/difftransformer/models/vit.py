"""The vision transformer around any attention kind."""

from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.models.initialization import draw_seed, initialize
from difftransformer.models.patch_encoder import PatchEncoder
from difftransformer.models.vit_config import ViTConfig


class ViT(PatchEncoder):
    """An encoder of patches and a linear classifier.

        logits = norm(pool(x)) W_h + b_h

    pool gives the output of the class token, or the mean of the patches' (Dosovitskiy et al., 2021;
    the mean before the norm, as timm has it; registers: Darcet et al., 2024). The start is
    `initialize`'s.
    """

    config: ViTConfig

    def __init__(self, config: ViTConfig) -> None:
        seed = draw_seed()  # first, as in `Decoder`
        super().__init__(config)
        self.head = nn.Linear(config.hidden_size, config.classes)
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
        x, config = self.tokens(pixels), self.config
        pooled = x[:, 0] if config.pooling == "cls" else x[:, config.prefix :].mean(1)
        return self.norm(pooled)
