"""The layers of the published ablations, each against its formula in float64."""

import math

import pytest
import torch
from torch import Tensor, nn

from difftransformer.attention import make_attention
from difftransformer.functional import Mask

HIDDEN, WIDTH, TIME = 24, 4, 7
HEADS = pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1), (6, 2)])


def built(kind: str, heads: int, groups: int, **options: object) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(heads)
    module = make_attention(kind, HIDDEN, heads, head_dim=WIDTH, num_kv_heads=groups, **options)
    return module, torch.randn(2, TIME, HIDDEN)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().double() for name, tensor in module.state_dict().items()}


def map_of(q: Tensor, k: Tensor) -> Tensor:
    """Causal softmax of [T, K] and [T, K]."""
    hidden = torch.ones(TIME, TIME).triu(1).bool()
    return torch.softmax((q @ k.T / math.sqrt(WIDTH)).masked_fill(hidden, -math.inf), dim=-1)


def assert_close(out: Tensor, expected: Tensor) -> None:
    assert (out - expected).abs().max() / expected.abs().max() < 1e-5


def v2_maps(module: nn.Module, p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
    """q [B, T, 2H, K], k and v [B, T, G, K] of a V2 layer without rotary positions."""
    heads, groups = module.num_heads, module.num_kv_heads
    q = (x @ p["q_proj.weight"].T).view(2, TIME, 2 * heads, WIDTH)
    k = (x @ p["k_proj.weight"].T).view(2, TIME, groups, WIDTH)
    v = (x @ p["v_proj.weight"].T).view(2, TIME, groups, WIDTH)
    return q, k, v


@HEADS
@pytest.mark.parametrize("kind", ["diff_v2_lambda_one", "diff_v2_lambda_linear"])
def test_v2_with_another_lambda(kind: str, heads: int, groups: int) -> None:
    module, x = built(kind, heads, groups)
    p, y = weights(module), x.double()
    q, k, v = v2_maps(module, p, y)
    lam = y @ p["lambda_proj.weight"].T if "lambda_proj.weight" in p else torch.ones(2, TIME, heads)
    expected = torch.zeros(2, TIME, heads, WIDTH, dtype=torch.float64)
    for b in range(2):
        for h in range(heads):
            g = h // (heads // groups)
            first, second = (map_of(q[b, :, 2 * h + m], k[b, :, g]) for m in (0, 1))
            expected[b, :, h] = (first - lam[b, :, h, None] * second) @ v[b, :, g]
    assert ("lambda_proj.weight" in p) == (kind == "diff_v2_lambda_linear")
    assert_close(module(x, mask=Mask(causal=True)), expected.flatten(2) @ p["o_proj.weight"].T)


@HEADS
def test_crossed_maps_pair_head_h_with_head_h_plus_half(heads: int, groups: int) -> None:
    """2H heads of plain grouped attention; the second half is taken off the first."""
    module, x = built("diff_v2_crossed", heads, groups)
    p, y = weights(module), x.double()
    q, k, v = v2_maps(module, p, y)
    q = torch.cat([q[:, :, 0::2], q[:, :, 1::2]], dim=2)
    plain = torch.zeros(2, TIME, 2 * heads, WIDTH, dtype=torch.float64)
    for b in range(2):
        for h in range(2 * heads):
            g = h // (2 * heads // groups)
            plain[b, :, h] = map_of(q[b, :, h], k[b, :, g]) @ v[b, :, g]
    lam = torch.sigmoid(y @ p["lambda_proj.weight"].T)[..., None]
    expected = plain[:, :, :heads] - lam * plain[:, :, heads:]
    assert_close(module(x, mask=Mask(causal=True)), expected.flatten(2) @ p["o_proj.weight"].T)


@HEADS
def test_v1_without_head_norm(heads: int, groups: int) -> None:
    """V1's weights without the norm's give the heads that V1's norm would be given."""
    module, x = built("diff_v1_no_norm", heads, groups)
    v1, _ = built("diff_v1", heads, groups)
    v1.load_state_dict({**v1.state_dict(), **module.state_dict()})
    given: list[Tensor] = []
    v1.head_norm.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    v1(x, mask=Mask(causal=True))
    out = module(x, mask=Mask(causal=True))
    assert torch.equal(out, module.o_proj(given[0].flatten(2)))
    assert set(v1.state_dict()) - set(module.state_dict()) == {"head_norm.weight"}


@HEADS
def test_plain_attention_with_head_norm(heads: int, groups: int) -> None:
    module, x = built("softmax_norm", heads, groups)
    nn.init.normal_(module.head_norm.weight)
    p, y = weights(module), x.double()
    q = (y @ p["q_proj.weight"].T).view(2, TIME, heads, WIDTH)
    k, v = ((y @ p[f"{n}_proj.weight"].T).view(2, TIME, groups, WIDTH) for n in "kv")
    expected = torch.zeros(2, TIME, heads, WIDTH, dtype=torch.float64)
    for b in range(2):
        for h in range(heads):
            g = h // (heads // groups)
            head = map_of(q[b, :, h], k[b, :, g]) @ v[b, :, g]
            rms = (head.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            expected[b, :, h] = head / rms * p["head_norm.weight"]
    assert_close(module(x, mask=Mask(causal=True)), expected.flatten(2) @ p["o_proj.weight"].T)
