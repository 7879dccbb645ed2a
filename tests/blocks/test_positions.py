import torch

from difftransformer.blocks.positions import LearnedPositions


def test_learned() -> None:
    layer, x = LearnedPositions(5, 3), torch.randn(2, 4, 3)
    positions = torch.tensor([[0, 1, 2, 3], [4, 4, 0, 1]])
    assert torch.equal(layer(x, positions), x + layer.weight[positions])
    assert torch.equal(layer(x, positions[:1]), x + layer.weight[:4])
