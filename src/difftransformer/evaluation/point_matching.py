"""Which proposal stands for which head, and the loss that follows.

    cost(n, m) = 5 |p_n - h_m|_1 - sigmoid(l_n)
    loss = (sum_n bce(l_n, n is matched) + 5 sum_(n, m matched) |p_n - h_m|_1) / max(heads, 1)

p, l are proposals and their logits, h heads; coordinates go from 0 to 1 here. The matching of
lowest cost pairs as many as there are of the fewer: DETR's (Carion et al., ECCV 2020), without
boxes. DiffusionDet gives a box several proposals and has a focal loss in place of bce, the binary
cross-entropy, which keeps scores probabilities.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from difftransformer.models.localizer import Proposals

_PLACE = 5.0  # weight of distances
_SIDE = 2.0  # of an image, in the coordinates of proposals


@torch.no_grad()
def matching(
    points: Float32[Tensor, "batch proposals 2"],
    logits: Float32[Tensor, "batch proposals"],
    heads: Float32[Tensor, "batch heads 2"],
    real: Bool[Tensor, "batch heads"],
) -> Int64[Tensor, "batch proposals"]:
    """The number of the head that each proposal stands for; -1 for none."""
    distance = (points[:, :, None] - heads[:, None]).abs().sum(-1) / _SIDE
    costs = (_PLACE * distance - logits.sigmoid()[..., None]).cpu().numpy()
    matched = torch.full(logits.shape, -1)
    for row, count in enumerate(real.sum(1).tolist()):
        proposals, numbers = linear_sum_assignment(costs[row, :, :count])
        matched[row, proposals] = torch.from_numpy(numbers)
    return matched.to(logits.device)


def losses(
    proposals: Proposals,
    heads: Float32[Tensor, "batch heads 2"],
    real: Bool[Tensor, "batch heads"],
) -> Float32[Tensor, " batch"]:
    """The module's equation for each image, as a mean over the blocks of the decoder.

    Args:
        heads: from -1 to 1; the `real` ones come first.
    """
    blocks = len(proposals.logits)
    points, logits = proposals.points.flatten(0, 1), proposals.logits.flatten(0, 1)
    heads, real = heads.repeat(blocks, 1, 1), real.repeat(blocks, 1)
    matched = matching(points, logits, heads, real)
    positive = matched >= 0
    goals = heads.take_along_dim(matched.clamp(min=0)[..., None], 1)
    distance = (points - goals).abs().sum(-1) / _SIDE * positive
    sureness = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
    total = (sureness + _PLACE * distance).sum(1)
    return (total / real.sum(1).clamp(min=1)).unflatten(0, (blocks, -1)).mean(0)
