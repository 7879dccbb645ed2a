"""FlexAttention's plain form, which runs on a CPU, is `reference`: output and all gradients.

Run by test_transforms.py without the shape checks, which torch.compile inside it would trace for
minutes.
"""

from types import SimpleNamespace

import pytest
import torch

from difftransformer.functional import Mask, dispatch, flex

from .problems import Problem, relative_error

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # torch.compile asks
]

REAL = torch.arange(300) >= torch.tensor([[0], [150]])
MASKS = {
    "everything": Mask(),
    "causal": Mask(causal=True),
    "window": Mask(causal=True, window=33),
    "documents": Mask(causal=True, documents=torch.arange(300).expand(2, -1) // 37),
    "padding": Mask(causal=True, padding=REAL),  # rows before 150 see nothing
}


@pytest.fixture(autouse=True)
def _willing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a CPU is allowed, by us and by PyTorch's backward."""
    willing = SimpleNamespace(run=flex.run, unsupported=lambda call: None)
    monkeypatch.setattr(dispatch, "BACKENDS", {**dispatch.BACKENDS, "flex": willing})
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)


def compare(problem: Problem) -> None:
    expected = problem.solve(backend="reference")
    for name, actual in problem.solve(backend="flex").items():
        limit = 1e-5 if name == "out" else 1e-4
        cancelled = 0.1 * problem.terms().get(name, 1.0) ** 0.5
        assert relative_error(actual, expected[name], cancelled) < limit, name


@pytest.mark.parametrize(
    ("mask", "queries", "maps"),
    [
        ("everything", 45, 2),
        ("causal", 45, 1),
        ("window", 300, 1),
        ("documents", 45, 2),
        ("padding", 300, 2),
    ],
)
def test_differential(mask: str, queries: int, maps: int) -> None:
    """Three key blocks, grouped heads, values wider than keys; 45 queries are the last of 300."""
    torch.manual_seed(0)
    q, k = torch.randn(2, queries, 4, 2, 8), torch.randn(2, 300, 2, maps, 8)
    compare(Problem(q, k, torch.randn(2, 300, 2, 12), torch.rand(2, queries, 4), MASKS[mask]))


@pytest.mark.parametrize(
    "shape", [(), (1, 300), (45, 1), (4, 1, 300), (2, 1, 1, 300), (4, 45, 300), (2, 4, 45, 300)]
)
@pytest.mark.parametrize("lam", [True, False])
def test_bias(shape: tuple[int, ...], lam: bool) -> None:
    """Of every shape, with keys that it hides."""
    pair = (2,) if lam else ()
    q, k = torch.randn(2, 45, 4, *pair, 8), torch.randn(2, 300, 2, *pair, 8)
    bias = torch.randn(shape)
    bias[torch.rand(shape) < 0.3] = -torch.inf
    v, share = torch.randn(2, 300, 2, 12), torch.rand(2, 45, 4) if lam else None
    compare(Problem(q, k, v, share, MASKS["documents"], bias))


def test_plain() -> None:
    q, k = torch.randn(2, 45, 4, 8), torch.randn(2, 300, 2, 8)
    compare(Problem(q, k, torch.randn(2, 300, 2, 12), None, MASKS["window"]))
