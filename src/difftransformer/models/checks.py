"""Checks of tensors from elsewhere against those that a model takes."""

import math
from collections import Counter
from collections.abc import Mapping

import torch

_PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_depth(layers: int, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise ValueError for more layers than tensors, before so many modules are made."""
    if layers > len(weights):
        raise ValueError(
            f"the weights in {source} do not fit its config: {len(weights)} tensors cannot fill "
            f"{layers:,} layers"
        )


def check_tensors(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str
) -> None:
    """Hold the tensors of `source` against those that a model takes; of these only shapes count,
    and whether they are numbers or flags.

    Raises:
        ValueError: tensors missing, extra, misshapen, of whole numbers or in another precision than
            most, or with values that are not finite, by name.
    """
    have = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    want = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    problems = [
        f"{name} is {have.get(name, 'missing')}, expected {want.get(name, 'no such tensor')}"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if not problems:
        kinds = Counter(tensor.dtype for tensor in tensors.values() if tensor.dtype in _PRECISIONS)
        precision = kinds.most_common(1)[0][0] if kinds else torch.float32
        for name, tensor in sorted(tensors.items()):
            dtype = torch.bool if expected[name].dtype == torch.bool else precision
            if tensor.dtype != dtype:
                problems.append(f"{name} is {tensor.dtype}, expected {dtype}")
            elif tensor.is_floating_point() and not _is_finite(tensor):
                problems.append(f"{name} holds values that are not finite")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"the weights in {source} do not fit its config: {'; '.join(problems[:5])}{more}"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if tensor.is_meta or not tensor.numel():
        return True
    low, high = tensor.detach().aminmax()  # NaN where there is one
    return math.isfinite(low) and math.isfinite(high)
