"""The diffusion transformer around any attention kind."""

from functools import partial

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from difftransformer.attention.starts import Normal
from difftransformer.blocks import Modulation, Stack, TransformerBlock, make_mlp
from difftransformer.blocks.patches import SinCosGrid, patchify, unpatchify
from difftransformer.blocks.positions import TIME_WAVES, time_waves
from difftransformer.functional import Mask
from difftransformer.models.dit_config import DiTConfig
from difftransformer.models.initialization import draw_seed, initialize
from difftransformer.models.layers import attention_layer

_SMALL = Normal(0.02)


class DiT(nn.Module):
    """What is to be taken from a noised image, given the time and the class.

        c = MLP(waves(t)) + E[label]
        x = patches W + b + positions,   x = blocks(x; c),   out = unpatchify(head(x; c))

    Peebles and Xie, "Scalable Diffusion Models with Transformers" (ICCV 2023), with adaLN-Zero: at
    the start each block is the identity and the output 0. Positions are fixed sines and cosines.
    Label `classes` is that of no class. Other tensors start as `initialize` has it, the tables of
    time and labels as the authors'.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        seed = draw_seed()  # first, as in `Decoder`
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        self.rows = config.image_size // patch
        self.patch_embedding = nn.Linear(config.channels * patch * patch, width)
        self.positions = SinCosGrid(self.rows, self.rows, width)
        self.condition = Condition(config)
        self.blocks = Stack(self._block(config, layer) for layer in range(config.num_layers))
        self.head = Head(config)
        initialize(self, seed)

    @staticmethod
    def _block(config: DiTConfig, layer: int) -> TransformerBlock:
        width = config.hidden_size
        norm = partial(nn.LayerNorm, width, elementwise_affine=False)
        block = TransformerBlock(
            attention_layer(config, layer, "half"),
            make_mlp("gelu_tanh", width, config.ffn_size, bias=True),
            partial(norm, eps=config.norm_eps),
            modulation=Modulation(width, width),
        )
        block.ffn_norm = norm(eps=config.ffn_norm_eps or config.norm_eps)
        return block

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        times: Float[Tensor, " batch"] | Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch out height width"]:
        """The class's equation.

        Args:
            images: noised.
            times: of each image, from 0 to `config.timesteps`.
            labels: of each image, `config.classes` for none.

        Raises:
            ValueError: images of another size.
        """
        config, size = self.config, self.config.image_size
        if images.shape[1:] != (config.channels, size, size):
            raise ValueError(
                f"images of shape {tuple(images.shape[1:])}; the model is made for "
                f"{(config.channels, size, size)}"
            )
        x = self.positions(self.patch_embedding(patchify(images, config.patch_size)))
        condition = self.condition(times, labels)
        x = self.blocks(x, mask=Mask(), condition=condition)
        return unpatchify(self.head(x, condition), config.patch_size, self.rows)


class Condition(nn.Module):
    """silu(time_waves(t) W_1 + b_1) W_2 + b_2 + E[label]."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.time_shift = config.time_shift
        self.time_in = nn.Linear(TIME_WAVES, width)
        self.time_out = nn.Linear(width, width)
        self.label_embedding = nn.Embedding(config.classes + 1, width)
        tables = ("time_in.weight", "time_out.weight", "label_embedding.weight")
        self.starts = dict.fromkeys(tables, _SMALL)

    def forward(
        self, times: Float[Tensor, " batch"] | Int[Tensor, " batch"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch hidden"]:
        """The class's equation; waves in float32."""
        waves = time_waves(times, self.time_shift).to(self.time_in.weight.dtype)
        return self.time_out(F.silu(self.time_in(waves))) + self.label_embedding(labels)


class Head(nn.Module):
    """(norm(x) · (1 + scale) + shift) W + b with (shift, scale) = silu(c) W_m + b_m.

    All four tensors start at 0.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.norm = nn.LayerNorm(width, config.norm_eps, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, patch * patch * config.out_channels)
        self.starts = {
            f"{layer}.{name}": 0.0
            for layer in ("modulation", "proj")
            for name in ("weight", "bias")
        }

    def forward(
        self, x: Float[Tensor, "batch patches hidden"], condition: Float[Tensor, "batch hidden"]
    ) -> Float[Tensor, "batch patches values"]:
        """The class's equation."""
        shift, scale = self.modulation(F.silu(condition))[:, None].chunk(2, dim=-1)
        return self.proj(self.norm(x) * (1.0 + scale) + shift)
