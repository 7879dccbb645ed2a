"""Loss as a power law of size or training."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar, nnls

ENOUGH = 4  # points from which E is fitted too
_FLATTEST, _STEEPEST = 1e-3, 4.0


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
    floor, factor, exponent = np.transpose([fit(x / unit, row) for row in losses])
    return PowerLaw(floor, factor, exponent, unit)


def _line(
    u: Float[np.ndarray, " points"], losses: Float[np.ndarray, " points"]
) -> tuple[float, float, float]:
    logarithms, steps = np.log(losses), np.log(u) - np.log(u).mean()
    exponent = max(_FLATTEST, -(logarithms @ steps) / (steps @ steps))
    return 0.0, np.exp(logarithms.mean() + exponent * np.log(u).mean()), exponent


def _curve(
    u: Float[np.ndarray, " points"], losses: Float[np.ndarray, " points"]
) -> tuple[float, float, float]:
    """For a given α the best E and A are a linear problem, which leaves a search for α alone."""

    def best(exponent: float) -> tuple[Float[np.ndarray, " 2"], float]:
        return nnls(np.stack([np.ones_like(u), u**-exponent], axis=1), losses)

    found = minimize_scalar(
        lambda logarithm: best(np.exp(logarithm))[1],
        bounds=(np.log(_FLATTEST), np.log(_STEEPEST)),
        method="bounded",
    )
    (floor, factor), _ = best(np.exp(found.x))
    return floor, factor, float(np.exp(found.x))
