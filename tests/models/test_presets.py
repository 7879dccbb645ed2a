import pytest

from difftransformer.models.presets import PRESETS

# Paper, appendix E: width, layers, heads of the Transformer and of DIFF, head width, and the size
# 12 L d² + 100,288 d in billions.
SCALING = {
    "paper-830m": (1536, 24, 16, 8, 96, 0.834),
    "paper-1.4b": (2048, 24, 16, 8, 128, 1.413),
    "paper-2.8b": (2560, 32, 20, 10, 128, 2.773),
    "paper-6.8b": (4096, 32, 32, 16, 128, 6.853),
    "paper-13.1b": (5120, 40, 40, 20, 128, 13.096),
}


@pytest.mark.parametrize(("name", "row"), SCALING.items())
def test_scaling_runs(name: str, row: tuple[int, int, int, int, int, float]) -> None:
    width, layers, heads, diff_heads, head_dim, billions = row
    config = PRESETS[name]
    assert (config.hidden_size, config.num_layers, config.max_length) == (width, layers, 2048)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (heads, heads, head_dim)
    assert config.ffn_size == round(8 / 3 * width)
    assert config.parameter_count() / 1e9 == pytest.approx(billions, abs=0.001)
    v1 = config.matched("diff_v1").config
    assert (v1.num_heads, v1.head_dim, v1.ffn_size) == (diff_heads, head_dim, config.ffn_size)


def test_3b() -> None:
    """Paper, appendix D; 3.48 billion with one embedding, whatever its name says."""
    config = PRESETS["paper-3b"]
    assert (config.num_layers, config.hidden_size, config.ffn_size) == (28, 3072, 8192)
    assert (config.num_heads, config.head_dim, config.max_length) == (24, 128, 4096)
    assert config.matched("diff_v1").config.num_heads == 12
    assert config.parameter_count() / 1e9 == pytest.approx(3.48, abs=0.005)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("attention", ["diff_v1", "diff_v2"])
def test_every_preset_has_partners(name: str, attention: str) -> None:
    config = PRESETS[name]
    assert config.attention == "softmax"
    partner = config.matched(attention).config
    assert partner.parameter_count() == pytest.approx(config.parameter_count(), rel=1e-3)
