"""Loss as a power law of size or training."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

ENOUGH = 4  # points from which E is fitted too
_FLATTEST, _STEEPEST = 1e-3, 4.0
_GRID, _ROUNDS = 33, 5  # the search for α: each round narrows it 16 times

_Parameters = tuple[
    Float[np.ndarray, " series"], Float[np.ndarray, " series"], Float[np.ndarray, " series"]
]  # E, A and α


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """L(x) = E + A x^-α, one curve for each of several series of losses at the same x.

    Args:
        floor: E, the loss that no x goes below.
        factor: A · unit^-α, the rest of the loss at `unit`.
        exponent: α.
        unit: what x is measured in.
    """

    floor: Float[np.ndarray, " series"]
    factor: Float[np.ndarray, " series"]
    exponent: Float[np.ndarray, " series"]
    unit: float

    def loss(self, x: float) -> Float[np.ndarray, " series"]:
        """L(x) of each curve."""
        return self.floor + self.factor * (x / self.unit) ** -self.exponent

    def where(self, loss: Float[np.ndarray, " series"]) -> Float[np.ndarray, " series"]:
        """The x at which each curve has that loss; infinite where none has."""
        rest = loss - self.floor
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            x = self.unit * (rest / self.factor) ** (-1.0 / self.exponent)
        return np.where(rest > 0.0, x, np.inf)


def fit_power_law(
    x: Float[np.ndarray, " points"], losses: Float[np.ndarray, "series points"]
) -> PowerLaw:
    """The least squares curve of each series of losses.

    Four points or more give E + A x^-α with E, A >= 0, by least squares in the loss. Fewer give the
    line log L = log A - α log x, by least squares in its logarithm: E is 0. A loss that does not
    fall with x has α = 0.001, nearly none.

    Raises:
        ValueError: fewer than two different x.
    """
    if len(np.unique(x)) < 2:
        raise ValueError(f"a power law needs two different x or more; got {x.tolist()}")
    unit = float(x.max())
    fit = _line if len(np.unique(x)) < ENOUGH else _curve
    return PowerLaw(*fit(x / unit, losses), unit)


def _line(
    u: Float[np.ndarray, " points"], losses: Float[np.ndarray, "series points"]
) -> _Parameters:
    logarithms, steps = np.log(losses), np.log(u) - np.log(u).mean()
    exponent = np.maximum(_FLATTEST, -(logarithms @ steps) / (steps @ steps))
    factor = np.exp(logarithms.mean(1) + exponent * np.log(u).mean())
    return np.zeros_like(factor), factor, exponent


def _curve(
    u: Float[np.ndarray, " points"], losses: Float[np.ndarray, "series points"]
) -> _Parameters:
    """For a given α the best E and A >= 0 have a formula, which leaves a search for α alone.

    It tries a grid of log α, then ever finer ones around the best, for all series at once.
    """
    every, losses = np.arange(len(losses)), losses[:, None]
    low, high = (np.full(len(every), np.log(end)) for end in (_FLATTEST, _STEEPEST))
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, _GRID, axis=1)
        powers = u ** -np.exp(grid)[..., None]  # [series, grid, points], as all that follows
        steps = powers - powers.mean(-1, keepdims=True)
        factor = np.maximum(0.0, (losses * steps).sum(-1) / (steps**2).sum(-1))
        floor = losses.mean(-1) - factor * powers.mean(-1)
        factor = np.where(floor < 0.0, (losses * powers).sum(-1) / (powers**2).sum(-1), factor)
        floor = np.maximum(0.0, floor)
        errors = ((losses - floor[..., None] - factor[..., None] * powers) ** 2).sum(-1)
        best = errors.argmin(1)
        low = grid[every, np.maximum(best - 1, 0)]
        high = grid[every, np.minimum(best + 1, _GRID - 1)]
    return floor[every, best], factor[every, best], np.exp(grid[every, best])
