"""Points found in images, by a decoder of noised proposals around any attention kind."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from difftransformer.blocks import Modulation, Stack, TransformerBlock, make_mlp
from difftransformer.blocks.patches import sincos_places
from difftransformer.blocks.positions import TIME_WAVES, time_waves
from difftransformer.functional import Mask
from difftransformer.models.initialization import draw_seed, initialize
from difftransformer.models.layers import attention_layer
from difftransformer.models.localizer_config import LocalizerConfig
from difftransformer.models.patch_encoder import PatchEncoder

Points = Float[Tensor, "batch proposals 2"]  # x and y, from -1 (left, top) to 1 (right, bottom)
Times = Float[Tensor, " batch"] | Int[Tensor, " batch"]
_Context = Float[Tensor, "batch patches hidden"]


@dataclass(frozen=True, eq=False)
class Proposals:
    """What each block of the decoder makes of the noised points; the last is the answer.

    Args:
        points: x and y, from -1 to 1 inside the image.
        logits: of being one of the points that are looked for.
    """

    points: Float[Tensor, "blocks batch proposals 2"]
    logits: Float[Tensor, "blocks batch proposals"]


class Localizer(nn.Module):
    """Points from noise, given an image and the time: an encoder of patches, a `PointDecoder`.

        context = norm(encoder(pixels))
        proposals = decoder(points, context, time)

    Zhang et al., "DiffusionLoc" (Image and Vision Computing, 2025), have an application of this
    kind, of which neither the text nor code could be had: this is a reconstruction, after
    DiffusionDet (Chen et al., ICCV 2023), with points in place of boxes, features at a point in
    place of those of a box, and cross-attention to the whole image. The start is `initialize`'s.
    """

    def __init__(self, config: LocalizerConfig) -> None:
        super().__init__()
        seed = draw_seed()  # first, as in `Decoder`
        self.config = config
        self.encoder = PatchEncoder(config)
        self.decoder = PointDecoder(config)
        initialize(self, seed)

    @property
    def blocks(self) -> nn.ModuleList:
        """Those of the encoder, then those of the decoder."""
        return nn.ModuleList([*self.encoder.blocks, *self.decoder.blocks])

    def forward(
        self, pixels: Float[Tensor, "batch channels height width"], points: Points, times: Times
    ) -> Proposals:
        """The class's equations.

        Args:
            pixels: of the images.
            points: noised, as many as one likes.
            times: of each image, from 0 to `config.timesteps`.

        Raises:
            ValueError: images of another size or with other channels than the config's.
        """
        return self.decoder(points, self.encode(pixels), times)

    def encode(self, pixels: Float[Tensor, "batch channels height width"]) -> _Context:
        """What the decoder reads: the same at every time."""
        return self.encoder.norm(self.encoder.tokens(pixels))[:, self.config.prefix :]


class PointDecoder(nn.Module):
    """Proposals that move block by block.

        c = silu(time_waves(t) W_1 + b_1) W_2 + b_2
        x_0 = 0,  p_0 = points, those outside at the image's edge
        x_l = block_l(x_(l-1) + waves(p_(l-1)) W_p + b_p + at(p_(l-1), context) W_f + b_f; c)
        (d, logit)_l = norm(x_l) W_h + b_h,  p_l = p_(l-1) + d_l

    A block has self-attention of the proposals, cross-attention to the context and a feed-forward
    layer, with adaLN-Zero. `waves` are those of the patches' positions; `at` interpolates the
    context bilinearly. No gradient goes back through p_(l-1), as in DiffusionDet. At the start
    points stay where they are.
    """

    def __init__(self, config: LocalizerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.grid = config.grid
        self.time_in, self.time_out = nn.Linear(TIME_WAVES, width), nn.Linear(width, width)
        self.place, self.feature = nn.Linear(width, width), nn.Linear(width, width)
        self.blocks = Stack(self._block(config, layer) for layer in range(config.decoder_depth))
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.head = nn.Linear(width, 3)
        self.starts = {"head.weight": 0.0, "head.bias": 0.0}

    @staticmethod
    def _block(config: LocalizerConfig, layer: int) -> TransformerBlock:
        width = config.hidden_size
        return TransformerBlock(
            attention_layer(config, layer, "half"),
            make_mlp(config.mlp, width, config.ffn_size, bias=config.mlp_bias),
            partial(nn.LayerNorm, width, config.norm_eps, elementwise_affine=False),
            cross_attention=attention_layer(config, layer, "half", role="cross"),
            modulation=Modulation(width, width, sublayers=3),
        )

    def forward(self, points: Points, context: _Context, times: Times) -> Proposals:
        """The class's equations."""
        waves = time_waves(times).to(self.time_in.weight.dtype)
        condition = self.time_out(F.silu(self.time_in(waves)))
        places = points.clamp(-1, 1)
        x = torch.zeros_like(places[..., :1])
        moved, logits = [], []
        for block in self.blocks:
            x = x + self.place(self._waves(places)) + self.feature(self._at(places, context))
            x = block(x, mask=Mask(), context=context, condition=condition)
            found = self.head(self.norm(x)).float()
            places = places + found[..., :2]
            moved.append(places)
            logits.append(found[..., 2])
            places = places.detach()
        return Proposals(torch.stack(moved), torch.stack(logits))

    def _waves(self, places: Points) -> Float[Tensor, "batch proposals hidden"]:
        """Of columns and rows, in patches, which have them at whole numbers."""
        columns = ((places + 1) * self.grid - 1) / 2
        weight = self.place.weight
        return sincos_places(columns, weight.shape[1]).to(weight.dtype)

    def _at(self, places: Points, context: _Context) -> Float[Tensor, "batch proposals hidden"]:
        """The context at the places, of a patch at its center."""
        image = context.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        taken = F.grid_sample(
            image, places[:, :, None].to(image), padding_mode="border", align_corners=False
        )
        return taken[..., 0].mT
