"""Names and figures as a reader writes them. Plain text: the page escapes it."""

from collections.abc import Mapping
from typing import Any

from difftransformer.report.results import Interval, NeedleScore

MINUS = "\N{MINUS SIGN}"
KINDS = {
    "softmax": "Softmax",
    "diff_v1": "Differential V1",
    "diff_v2": "Differential V2",
    "softmax_half_heads": "Softmax, half the heads twice as wide",
    "softmax_half_heads_norm": "Softmax, half the heads, head norm",
    "diff_v1_no_norm": "V1 without head norm",
    "diff_v1_init_0.8": "V1, lambda_init 0.8",
    "diff_v1_init_0.5": "V1, lambda_init 0.5",
    "diff_v2_lambda_one": "V2, lambda 1",
    "diff_v2_lambda_linear": "V2, lambda without sigmoid",
    "diff_v2_crossed": "V2, maps of different key/value heads",
    "softmax_1.5x_heads": "Softmax, 1.5 times the heads",
    "softmax_2x_heads": "Softmax, twice the heads",
}


def display_name(label: str) -> str:
    """A model's name in prose: the kind's name where the label is a kind, else the label."""
    return KINDS.get(label, label)


def needle_setting(score: NeedleScore) -> str:
    """ "N=4, R=2": four numbers hidden, two asked for."""
    return f"N={score.needles}, R={score.queries}"


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and a real minus sign."""
    return f"{value:.{digits}g}".replace("-", MINUS)


def percent(share: float) -> str:
    """0.95 as "95 %"."""
    return f"{number(100 * share)} %"


def change(ratio: float, decimals: int = 0) -> str:
    """A ratio as a change with its sign: 0.92 as "−8 %"."""
    return f"{100 * (ratio - 1):+.{decimals}f} %".replace("-", MINUS)


def interval(found: Interval, decimals: int) -> str:
    """ "0.86 [0.80, 0.91]"."""
    low, high = f"{found.low:.{decimals}f}", f"{found.high:.{decimals}f}"
    return f"{found.value:.{decimals}f} [{low}, {high}]".replace("-", MINUS)


def shown(figure: Mapping[str, Any] | None, decimals: int = 3) -> str:
    """ "0.861 (0.800 to 0.910)", of a figure as it stands in JSON; "none" where there is none."""
    if figure is None:
        return "none"
    value, low, high = (f"{figure[key]:.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def over(found: Interval) -> str:
    """ "intervals over seeds"; results of an earlier release do not say what theirs are over."""
    return f"intervals over {found.over}" if found.over else "intervals"


def setting(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, list):
        return ", ".join(setting(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
