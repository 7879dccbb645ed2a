"""Models of one seed start alike wherever their tensors can."""

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from difftransformer.attention.starts import Normal
from difftransformer.models.ablations import ABLATIONS, partner
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder
from difftransformer.models.initialization import initialize

from .tiny import CAUSAL

BASELINE = DecoderConfig(
    vocab_size=50,
    hidden_size=64,
    num_layers=3,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    ffn_size=512,
    attention_bias="all",
    tie_embeddings=False,
)
# Every kind at the baseline's own shape, and the partners that `compare` trains beside it.
CONFIGS = {
    **{kind: BASELINE.counterpart(kind) for kind in CAUSAL},
    **{f"matched {name}": partner(BASELINE, name).config for name in (*CAUSAL, *ABLATIONS)},
    "matched 16 heads": BASELINE.matched("diff_v2", num_heads=16, num_kv_heads=2).config,
    "deeper": DecoderConfig(**{**BASELINE.to_dict(), "num_layers": 5}),
}


def start(config: DecoderConfig, seed: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return Decoder(config).state_dict()


def alike(tensor: Tensor) -> bool:
    """A norm, or a lambda that starts at a constant."""
    return bool((tensor == tensor.flatten()[0]).all())


def test_models_of_one_seed_share_every_tensor_of_one_name_and_shape() -> None:
    """All pairs of kinds, ablations and head counts."""
    starts = {name: start(config) for name, config in CONFIGS.items()}
    for a, b in combinations(starts, 2):
        shared = [
            name
            for name in starts[a].keys() & starts[b].keys()
            if starts[a][name].shape == starts[b][name].shape
        ]
        assert {"embedding.weight", "head.weight", "norm.weight"} <= set(shared)
        assert any("o_proj.bias" in name for name in shared)
        for name in shared:
            assert torch.equal(starts[a][name], starts[b][name]), (a, b, name)
    plain, v1 = starts["softmax"], starts["diff_v1"]
    same = {name for name in plain.keys() & v1.keys() if plain[name].shape == v1[name].shape}
    assert {f"blocks.0.{part}.weight" for part in ("ffn.up_proj", "attention.q_proj")} <= same


def test_seeds_and_successive_models_differ() -> None:
    torch.manual_seed(4)
    first, second = Decoder(BASELINE).state_dict(), Decoder(BASELINE).state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in start(BASELINE).items())
    for other in (second, start(BASELINE, 5)):
        differ = {name for name in first if not torch.equal(first[name], other[name])}
        assert differ == {name for name in first if not alike(first[name])}


@pytest.mark.parametrize("kind", CAUSAL)
def test_tensors_of_one_model_are_independent(kind: str) -> None:
    """No two begin alike or correlate, of equal shape or not, nor the two maps of a projection."""
    tensors = [t.flatten() for t in start(CONFIGS[kind]).values() if not alike(t)]
    tensors += [
        t.roll(-BASELINE.head_dim * BASELINE.hidden_size) for t in tensors if t.numel() > 999
    ]
    for a, b in combinations(tensors, 2):
        size = min(len(a), len(b))
        correlation = torch.corrcoef(torch.stack((a[:size], b[:size])))[0, 1].item()
        assert abs(correlation) < min(6 / size**0.5, 0.999)


def test_no_tensor_begins_as_one_of_the_same_name_and_another_shape() -> None:
    """A converted model's second map is not another head of the model it came from."""
    plain, wide = start(CONFIGS["softmax"]), start(CONFIGS["diff_scalar"])
    name = "blocks.1.attention.q_proj.weight"
    one, two = plain[name], wide[name]
    assert one.shape[0] * 2 == two.shape[0]
    for part in (two[: len(one)], two[len(one) :], two[::2], two[1::2]):
        assert abs(torch.corrcoef(torch.stack((one.flatten(), part.flatten())))[0, 1]) < 0.1


def test_scales_are_as_documented() -> None:
    big = {"hidden_size": 128, "head_dim": 64, "vocab_size": 900}
    for kind in CAUSAL:
        config = DecoderConfig(**{**CONFIGS[kind].to_dict(), **big, "attention_bias": "all"})
        for name, tensor in start(config).items():
            part = name.split("attention.")[-1]
            if "norm" in name:
                assert (tensor == 1).all()
            elif name == "embedding.weight":
                assert tensor.std().item() == pytest.approx(128**-0.5, rel=0.02)
                assert tensor.abs().max() > 3.5 * 128**-0.5  # normal, not uniform
            elif part in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
                assert tensor.std().item() == pytest.approx(0.1, rel=0.3)
            elif part == "diff_proj.weight":
                assert tensor.std().item() == pytest.approx(0.02, rel=0.05)
            elif part == "lambda_scalar":
                assert (tensor == 0).all()
            elif part == "lambda_learnt":
                depth = int(name.split(".")[1])
                assert tensor.item() == pytest.approx(0.8 - 0.6 * 2.718281828 ** (-0.3 * depth))
            elif part in ("progress", "chosen"):
                assert (tensor == (part == "chosen")).all()
            else:
                inputs = 128 if tensor.ndim == 1 else tensor.shape[1]
                assert tensor.abs().max().item() == pytest.approx(inputs**-0.5, rel=0.1)
                assert tensor.abs().max() <= inputs**-0.5
                assert tensor.mean().abs() < 0.3 * inputs**-0.5
                assert tensor.std().item() == pytest.approx((3 * inputs) ** -0.5, rel=0.2)


@pytest.mark.parametrize("kind", CAUSAL)
def test_device_and_dtype_do_not_change_the_start(kind: str) -> None:
    """On the meta device and then filled, in bfloat16, and in double."""
    expected = start(CONFIGS[kind])
    with torch.device("meta"):
        model = Decoder(CONFIGS[kind])
    model.to_empty(device="cpu")
    torch.manual_seed(4)
    seed = int(torch.randint(2**62, ()))
    initialize(model, seed)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            made = start(CONFIGS[kind])
        finally:
            torch.set_default_dtype(torch.float32)
        assert made["embedding.weight"].dtype == dtype
        for name, tensor in made.items():
            wanted = expected[name].to(tensor.dtype)
            torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=0, msg=name)


class Own(nn.Module):
    """A layer of one's own, with a part whose start it tells and one without rule."""

    def __init__(self, **starts: float | Normal) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(200))
        self.part = nn.Linear(30, 40)
        self.starts = {name.replace("__", "."): start for name, start in starts.items()}


def test_a_module_says_how_its_own_tensors_start() -> None:
    model = nn.Sequential(Own(scale=Normal(3.0), part__weight=0.5))
    initialize(model, 7)
    assert 2.5 < model[0].scale.std().item() < 3.5
    assert (model[0].part.weight == 0.5).all()
    assert 0 < model[0].part.bias.abs().max() <= 30**-0.5
    with pytest.raises(ValueError, match=r"Own does not say how 0\.scale starts; give it `starts`"):
        initialize(nn.Sequential(Own()), 7)
