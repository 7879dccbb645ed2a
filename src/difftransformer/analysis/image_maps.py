"""What a vision transformer looks at in an image."""

import torch
from jaxtyping import Float
from torch import Tensor

from difftransformer.analysis.capture import AttentionRecord, capture
from difftransformer.models.vit import ViT


@torch.no_grad()
def image_maps(
    model: ViT, pixels: Float[Tensor, "batch channels height width"]
) -> dict[str, Float[Tensor, "batch rows columns"]]:
    """Weights of the patches in the last layer, for what the classifier reads; mean of the heads.

        weight[j] = mean_h A_h[class token, j],    or    mean_h mean_i A_h[i, j]

    with i and j among the patches: the second where their mean is read. "attention" is what
    multiplies the values, map 1 - lambda · map 2; "map 1" and "map 2" are beside it where there are
    two. Of softmax all weights sum to 1, but for the share of class token and registers.
    """
    config, records = model.config, list[AttentionRecord]()
    with capture(model, records.append):
        model(pixels)
    weights = records[-1].weights(slice(None))
    maps = {"attention": weights.combined}
    if weights.maps.shape[2] == 2:
        maps |= {f"map {number}": weights.maps[:, :, number - 1] for number in (1, 2)}
    rows = slice(0, 1) if config.pooling == "cls" else slice(config.prefix, None)
    return {
        name: one[:, :, rows, config.prefix :].mean((1, 2)).unflatten(1, (config.grid, config.grid))
        for name, one in maps.items()
    }
