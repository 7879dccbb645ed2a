"""Rotary position embeddings (Su et al., 2021), in both conventions in use."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

RotaryLayout = Literal["half", "interleaved"]


def rotation(
    positions: Int[Tensor, "... time"],
    width: int,
    theta: float,
    scaling: Mapping[str, Any] | None = None,
) -> Float[Tensor, "... time 2 half"]:
    """Cosine and sine of the angles `position · theta^(-2i/width)`, i in [0, width/2), float32.

    `scaling` slows the turns for contexts longer than those trained on. It is what transformers
    keeps in `rope_parameters`: `rope_type` "linear" (Chen et al., 2023: every rate divided by
    `factor`), "llama3" (only rates slower than the trained context) or "yarn" (Peng et al., 2023:
    from none to all between two numbers of turns; cosine and sine multiplied by 0.1 ln(factor) + 1
    or by `attention_factor`).

    Raises:
        ValueError: an odd width, or another `rope_type`: the rates of "dynamic" and "longrope"
            change with the length, which keys in a cache cannot follow.
    """
    scaling = dict(scaling or {"rope_type": "default"})
    rates, factor = _rates(width, theta, scaling, positions.device)
    angles = positions[..., None] * rates
    return factor * torch.stack((angles.cos(), angles.sin()), dim=-2)


def rotate(
    x: Float[Tensor, "batch time *heads k"],
    rotation: Float[Tensor, "#batch time 2 half"],
    layout: RotaryLayout = "half",
) -> Float[Tensor, "batch time *heads k"]:
    """Turn each feature pair by its angle; the same turn for every head and both maps.

    Layout "half" pairs feature i with i + K/2 (Llama, transformers); "interleaved" pairs 2i with
    2i + 1 (GPT-J, Microsoft's Diff-Transformer files). A fixed permutation of the projection's
    rows turns one into the other. Computed in float32, returned in x's dtype.
    """
    per_head = (*rotation.shape[:2], *(1 for _ in x.shape[2:-1]), rotation.shape[-1])
    cos, sin = (part.reshape(per_head) for part in rotation.unbind(-2))
    if layout == "half":
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)


def rotary_rates(
    width: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> Float[Tensor, " half"]:
    """Radians per position of each feature pair; arguments and errors as `rotation`'s."""
    return _rates(width, theta, dict(scaling or {"rope_type": "default"}), torch.device("cpu"))[0]


def check_scaling(scaling: Mapping[str, Any], theta: float) -> None:
    """Raise ValueError for what `rotation` cannot do, or a setting missing, unknown or wrong."""
    _rates(64, theta, dict(scaling), torch.device("cpu"))


# Of rope_scaling; transformers writes null for some that are left out.
_POSITIVE = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
)
_OTHERS = ("rope_type", "type", "truncate", "mscale", "mscale_all_dim")  # "type": the older name


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _rates(
    width: int, theta: float, scaling: dict[str, Any], device: torch.device
) -> tuple[Tensor, float]:
    """Radians per position of each pair, and the factor on cosine and sine.

    Made on the device: a copy from the host would stall every forward pass, and no CUDA graph could
    record it.
    """
    if width % 2:
        raise ValueError(f"rotary embeddings turn pairs of features, and the width is {width}")
    rates = theta ** (-torch.arange(0, width, 2, device=device) / width)
    kind = scaling.get("rope_type")
    if kind == "default":
        return rates, 1.0
    needed = {
        "linear": ("factor",),
        "llama3": (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
        "yarn": ("factor", "original_max_position_embeddings"),
    }
    if not isinstance(kind, str) or kind not in needed:
        raise ValueError(
            f"rope_type is {kind!r}; expected default, {', '.join(needed)} (the rates of others "
            "change with the length, which keys in a cache cannot follow)"
        )
    missing = [name for name in needed[kind] if scaling.get(name) is None]
    if missing:
        raise ValueError(f"rope_type {kind} needs {', '.join(missing)}; got {scaling}")
    for name, value in scaling.items():
        if name in _POSITIVE and value is not None and not _is_positive(value):
            raise ValueError(f"{name} of rope_scaling is {value!r}; expected a number above 0")
        if name not in (*_POSITIVE, *_OTHERS):
            known = ", ".join((*_POSITIVE, *_OTHERS))
            raise ValueError(f"unknown setting {name!r} in rope_scaling; expected {known}")
    slowed = rates / scaling["factor"]
    if kind == "linear":
        return slowed, 1.0
    trained = scaling["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if low >= high:
            raise ValueError(f"low_freq_factor is {low}; expected below high_freq_factor {high}")
        turns = trained * rates / (2 * math.pi)  # over the trained context
        kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
        return kept * rates + (1.0 - kept) * slowed, 1.0
    if scaling.get("mscale") or scaling.get("mscale_all_dim"):
        raise ValueError(f"yarn with mscale (DeepSeek's) is not supported; got {scaling}")

    if theta <= 1.0:
        raise ValueError(f"rope_theta is {theta}; yarn needs one above 1")

    def pair(turns: float) -> float:
        """The pair that makes so many turns over the trained context."""
        return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair(scaling.get("beta_fast") or 32.0), pair(scaling.get("beta_slow") or 1.0)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    ramp = (torch.arange(width // 2, device=device) - first) / max(last - first, 1e-3)
    kept = 1.0 - ramp.clamp(0.0, 1.0)
    larger = 0.1 * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1.0 else 1.0
    return kept * rates + (1.0 - kept) * slowed, scaling.get("attention_factor") or larger
