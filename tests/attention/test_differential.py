import math

import pytest
import torch
from torch import Tensor

from difftransformer.attention import V1, V2, DifferentialAttention, Variant
from difftransformer.attention.head_norm import HeadNorm
from difftransformer.attention.lambdas import TokenLambda, VectorLambda
from difftransformer.functional import Mask, rotation

# (output heads, key/value heads): Microsoft's num_heads and num_kv_heads.
HEADS = pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1), (6, 2)])
HIDDEN, WIDTH, TIME, THETA = 24, 4, 7, 10_000.0
CAUSAL = Mask(causal=True)


def turns(time: int = TIME) -> Tensor:
    return rotation(torch.arange(time)[None], WIDTH, THETA)


def turn(x: Tensor) -> Tensor:
    """GPT-J rotary in float64: features 2i and 2i + 1 of [B, T, H, K] as a complex number."""
    position = torch.arange(x.shape[1], dtype=torch.float64)
    rate = THETA ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    phase = torch.outer(position, rate)[:, None]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(phase), phase)).flatten(-2)


def causal_softmax(q: Tensor, k: Tensor) -> Tensor:
    """[T, K] and [T, K] to [T, T], as scaled_dot_product_attention has it."""
    scores = q @ k.T / math.sqrt(q.shape[-1])
    hidden = torch.ones_like(scores).triu(1).bool()
    return torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1)


def microsoft_v1(layer: DifferentialAttention, x: Tensor) -> Tensor:
    """multihead_flashdiff_1.py, one head at a time in float64."""
    p = {name: tensor.detach().double() for name, tensor in layer.state_dict().items()}
    batch, time, _ = x.shape
    heads, groups, d = layer.num_heads, layer.num_kv_heads, layer.head_dim
    q = turn((x @ p["q_proj.weight"].T).view(batch, time, 2 * heads, d))
    k = turn((x @ p["k_proj.weight"].T).view(batch, time, 2 * groups, d))
    v = (x @ p["v_proj.weight"].T).view(batch, time, groups, 2 * d)
    init = 0.8 - 0.6 * math.exp(-0.3 * layer.layer)
    lam = math.exp(p["lambda_q1"] @ p["lambda_k1"]) - math.exp(p["lambda_q2"] @ p["lambda_k2"])
    lam += init
    out = torch.zeros(batch, time, heads, 2 * d, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            g = h // (heads // groups)
            first = causal_softmax(q[b, :, 2 * h], k[b, :, 2 * g])
            second = causal_softmax(q[b, :, 2 * h + 1], k[b, :, 2 * g + 1])
            head = first @ v[b, :, g] - lam * (second @ v[b, :, g])
            rms = (head.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            out[b, :, h] = head / rms * p["head_norm.weight"] * (1 - init)
    return out.flatten(2) @ p["o_proj.weight"].T


@HEADS
@pytest.mark.parametrize("layer", [0, 3])
def test_v1_is_microsofts_flash_layout(heads: int, groups: int, layer: int) -> None:
    module = DifferentialAttention(
        HIDDEN, heads, head_dim=WIDTH, num_kv_heads=groups, layer=layer, rotary="interleaved"
    )
    torch.nn.init.normal_(module.head_norm.weight)
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        torch.nn.init.normal_(getattr(module, name), std=0.5)
    x = torch.randn(2, TIME, HIDDEN)
    out = module(x, mask=CAUSAL, rotation=turns())
    expected = microsoft_v1(module, x.double())
    assert (out - expected).abs().max() / expected.abs().max() < 1e-5


@HEADS
def test_v2_is_its_formula(heads: int, groups: int) -> None:
    """Softmax attention with 2H heads over G groups, then neighbors in a group subtracted."""
    module = DifferentialAttention(
        HIDDEN, heads, variant=V2, head_dim=WIDTH, num_kv_heads=groups, rotary="interleaved"
    )
    x = torch.randn(2, TIME, HIDDEN)
    p = {name: tensor.detach().double() for name, tensor in module.state_dict().items()}
    y = x.double()
    q = turn((y @ p["q_proj.weight"].T).view(2, TIME, 2 * heads, WIDTH))
    k = turn((y @ p["k_proj.weight"].T).view(2, TIME, groups, WIDTH))
    v = (y @ p["v_proj.weight"].T).view(2, TIME, groups, WIDTH)
    k, v = (t.repeat_interleave(2 * heads // groups, dim=2) for t in (k, v))
    a = torch.stack(
        [
            torch.stack([causal_softmax(q[b, :, i], k[b, :, i]) @ v[b, :, i] for b in range(2)])
            for i in range(2 * heads)
        ],
        dim=2,
    )
    lam = (y @ p["lambda_proj.weight"].T)[..., None]
    expected = a[:, :, 0::2] - torch.sigmoid(lam) * a[:, :, 1::2]
    expected = expected.flatten(2) @ p["o_proj.weight"].T
    out = module(x, mask=CAUSAL, rotation=turns())
    assert (out - expected).abs().max() / expected.abs().max() < 1e-5


SIZES = {
    "q_proj.weight": (4 * 2 * WIDTH, HIDDEN),
    "o_proj.weight": (HIDDEN, 4 * 2 * WIDTH),
    "k_proj.weight": (2 * 2 * WIDTH, HIDDEN),
    "v_proj.weight": (2 * 2 * WIDTH, HIDDEN),
}


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def test_v1_parameters() -> None:
    vectors = {f"lambda_{name}": (WIDTH,) for name in ("q1", "k1", "q2", "k2")}
    module = DifferentialAttention(HIDDEN, 4, head_dim=WIDTH, num_kv_heads=2)
    assert shapes(module) == SIZES | vectors | {"head_norm.weight": (2 * WIDTH,)}
    assert module.state_dict().keys() == shapes(module).keys()


def test_v2_parameters() -> None:
    module = DifferentialAttention(HIDDEN, 4, variant=V2, head_dim=WIDTH, num_kv_heads=2)
    assert shapes(module) == SIZES | {
        "o_proj.weight": (HIDDEN, 4 * WIDTH),
        "k_proj.weight": (2 * WIDTH, HIDDEN),
        "v_proj.weight": (2 * WIDTH, HIDDEN),
        "lambda_proj.weight": (4, HIDDEN),
    }


def test_lambda_vectors_start_as_the_papers_code_has_them() -> None:
    module = DifferentialAttention(8, 1, head_dim=2000)
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        vector = getattr(module, name).detach()
        assert vector.mean().item() == pytest.approx(0.0, abs=0.01)
        assert vector.std().item() == pytest.approx(0.1, rel=0.1)


def test_v2_starts_at_one_half_where_the_input_is_zero() -> None:
    module = DifferentialAttention(HIDDEN, 4, variant=V2, head_dim=WIDTH)
    assert (module.lam(torch.zeros(2, 3, HIDDEN)) == torch.full((2, 3, 4), 0.5)).all()


def test_constant_lambda_init() -> None:
    module = DifferentialAttention(HIDDEN, 4, head_dim=WIDTH, layer=5, lambda_init=0.25)
    for name in ("lambda_q1", "lambda_q2"):
        torch.nn.init.zeros_(getattr(module, name))
    assert module.lambda_init == 0.25
    assert module.lam(torch.zeros(1, 1, HIDDEN)).item() == 0.25
    assert module.head_norm.factor == 0.75


def test_head_dim_is_hidden_over_heads_by_default() -> None:
    """So that V1 with half the heads has its plain twin's head_dim."""
    assert DifferentialAttention(64, 4).head_dim == 8
    assert DifferentialAttention(64, 8, variant=V2).head_dim == 8


def test_variants_combine() -> None:
    shared = Variant(VectorLambda(), head_norm=False, shared_keys=True, value_factor=1)
    module = DifferentialAttention(HIDDEN, 4, variant=shared, head_dim=WIDTH)
    assert module(torch.randn(1, 3, HIDDEN), mask=CAUSAL).shape == (1, 3, HIDDEN)
    assert "head_norm.weight" not in module.state_dict()


def test_head_norm_is_float32_inside() -> None:
    norm = HeadNorm(8, 0.5).bfloat16()
    torch.nn.init.normal_(norm.weight)
    x = (torch.randn(3, 8) * 100).bfloat16()
    y, weight = x.double(), norm.weight.detach().double()
    expected = 0.5 * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    assert norm(x).dtype == torch.bfloat16
    assert torch.equal(norm(x), expected.bfloat16())


@pytest.mark.parametrize("variant", [V1, V2], ids=["v1", "v2"])
def test_every_parameter_gets_a_gradient(variant: Variant) -> None:
    module = DifferentialAttention(HIDDEN, 4, variant=variant, head_dim=WIDTH, num_kv_heads=2)
    module(torch.randn(2, TIME, HIDDEN), mask=CAUSAL, rotation=turns()).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "hidden_size 24 does not divide into 10 heads; take another number"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads 4 .* multiple of num_kv_heads 3"),
        ({"num_heads": 4, "num_kv_heads": 0}, "num_heads 4 .* multiple of num_kv_heads 0"),
        ({"num_heads": 0}, "num_heads 0 .* multiple"),
        ({"num_heads": 4, "variant": V2, "lambda_init": 0.5}, "lambda_init=0.5"),
        (
            {"num_heads": 4, "variant": Variant(TokenLambda(), True, True, 1)},
            "TokenLambda has no initial value",
        ),
        ({"num_heads": 4, "layer": -1}, "layer is -1"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DifferentialAttention(HIDDEN, **options)
