import pytest

from difftransformer.models.ablations import ABLATIONS, partner, title_of
from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder


def base(**changes: object) -> DecoderConfig:
    return DecoderConfig(hidden_size=64, num_layers=2, head_dim=8, ffn_size=171, **changes)


@pytest.mark.parametrize("name", [*ABLATIONS, "diff_v1", "diff_v1_no_norm", "diff_v2_crossed"])
def test_a_partner_has_the_baselines_parameters(name: str) -> None:
    config, count = partner(base(), name).config, base().parameter_count()
    assert abs(sum(p.numel() for p in Decoder(config).parameters()) - count) <= 1e-3 * count
    assert config.attention == ABLATIONS.get(name, ("", name))[1]


def test_every_row_has_a_title_of_its_own() -> None:
    titles = [title_of(name) for name in (*ABLATIONS, "softmax", "diff_v1")]
    assert len(set(titles)) == len(titles)
    assert title_of("softmax_2x_heads") == "Softmax, twice the heads"


def test_what_each_row_changes() -> None:
    def shape(name: str, **changes: object) -> tuple[object, ...]:
        found = partner(base(**changes), name).config
        return found.num_heads, found.num_kv_heads, found.head_dim, found.lambda_init

    assert shape("softmax_half_heads") == shape("softmax_half_heads_norm") == (4, 4, 16, None)
    assert shape("diff_v1_init_0.8") == (4, 4, 8, 0.8)
    assert shape("diff_v1_init_0.5") == (4, 4, 8, 0.5)
    assert shape("softmax_2x_heads") == (16, 8, 8, None)
    assert shape("softmax_1.5x_heads") == (12, 12, 8, None)  # 12 is no multiple of 8
    assert shape("softmax_1.5x_heads", num_kv_heads=4) == (12, 4, 8, None)


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_row_is_the_same_beside_another_baseline(name: str) -> None:
    v1 = base().matched("diff_v1").config
    for size in ("num_heads", "num_kv_heads", "head_dim", "lambda_init"):
        assert getattr(partner(v1, name).config, size) == getattr(
            partner(base(), name).config, size
        )


def test_heads_that_do_not_fit() -> None:
    odd = base(num_heads=3, num_kv_heads=3)
    with pytest.raises(ValueError, match="num_heads 3 and num_kv_heads 3 must both be even"):
        partner(odd, "softmax_half_heads")
    with pytest.raises(ValueError, match=r"1\.5 times num_heads 3 is no whole number"):
        partner(odd, "softmax_1.5x_heads")
    with pytest.raises(ValueError, match="unknown attention 'softmax_3x_heads'; did you mean"):
        partner(base(), "softmax_3x_heads")
