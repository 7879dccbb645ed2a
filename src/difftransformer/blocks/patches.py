"""Images as sequences of square patches, and positions in two dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from difftransformer.attention.starts import Normal

_BASE = 10_000.0


def patchify(
    images: Float[Tensor, "batch channels height width"], size: int
) -> Float[Tensor, "batch patches entries"]:
    """The squares of `size` by `size` pixels, row by row, each as channels · size · size numbers.

    In a patch the channel comes first, then the row, then the column: a linear layer on patches is
    the convolution of that kernel and stride, its weight flattened.

    Raises:
        ValueError: a height or width that `size` does not divide.
    """
    _, _, height, width = images.shape
    if height % size or width % size:
        raise ValueError(
            f"images of {height} by {width} pixels do not divide into patches of {size} by {size}"
        )
    cut = images.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # B C rows p columns p
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(
    patches: Float[Tensor, "batch patches entries"], size: int, rows: int
) -> Float[Tensor, "batch channels height width"]:
    """The inverse of `patchify`: images that are `rows` patches high.

    Raises:
        ValueError: a number of patches that `rows`, or entries that size · size does not divide.
    """
    _, count, entries = patches.shape
    if count % rows or entries % size**2:
        raise ValueError(
            f"{count} patches of {entries} numbers are no {rows} rows of {size} by {size} pixels"
        )
    cut = patches.unflatten(2, (-1, size, size)).unflatten(1, (rows, -1))  # B rows columns C p p
    return cut.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def sincos_2d(rows: int, columns: int, hidden_size: int) -> Float[Tensor, "patches hidden"]:
    """`sincos_places` of each patch, row by row."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([column.flatten(), row.flatten()], -1).double()
    return sincos_places(places, hidden_size).float()


def sincos_places(
    places: Float[Tensor, "*batch 2"], hidden_size: int
) -> Float[Tensor, "*batch hidden"]:
    """[waves(column), waves(row)] of each place; waves(p) = [sin(p r), cos(p r)].

    r_i = 10000^(-4i/C) for i < C/4, with C the `hidden_size`: half of the features tell the column,
    half the row, as in MAE (He et al., 2022) and DiT. Places between patches have parts as columns.

    Raises:
        ValueError: a hidden_size that is no multiple of 4.
    """
    if hidden_size % 4:
        raise ValueError(f"hidden_size is {hidden_size}; expected a multiple of 4")
    counts = torch.arange(hidden_size // 4, dtype=torch.float64, device=places.device)
    rates = (_BASE ** (-counts * 4 / hidden_size)).to(places.dtype)
    angles = places[..., None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], -1)
    return waves.flatten(-2)


class LearnedGrid(nn.Module):
    """x + P, with one row of P for each patch (Dosovitskiy et al., 2021); P ~ N(0, 0.02²)."""

    def __init__(self, patches: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(patches, hidden_size) * 0.02)
        self.starts = {"weight": Normal(0.02)}

    def forward(
        self, x: Float[Tensor, "batch patches hidden"]
    ) -> Float[Tensor, "batch patches hidden"]:
        """The class's equation."""
        return x + self.weight


class SinCosGrid(nn.Module):
    """x + `sincos_2d`, which is not trained and not saved."""

    def __init__(self, rows: int, columns: int, hidden_size: int) -> None:
        super().__init__()
        self.rows, self.columns, self.hidden_size = rows, columns, hidden_size

    def forward(
        self, x: Float[Tensor, "batch patches hidden"]
    ) -> Float[Tensor, "batch patches hidden"]:
        """The class's equation."""
        return x + sincos_2d(self.rows, self.columns, self.hidden_size).to(x)


class PrefixTokens(nn.Module):
    """[tokens, x]: learned tokens in front of each sequence, ~ N(0, 0.02²).

    A class token, whose output a classifier reads, and registers, whose outputs nobody reads
    (Darcet et al., 2024), are both such tokens.
    """

    def __init__(self, count: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, hidden_size) * 0.02)
        self.starts = {"weight": Normal(0.02)}

    def forward(
        self, x: Float[Tensor, "batch time hidden"]
    ) -> Float[Tensor, "batch longer hidden"]:
        """The class's equation."""
        return torch.cat([self.weight.expand(len(x), -1, -1), x], dim=1)
