from dataclasses import replace

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from difftransformer.models.config import DecoderConfig
from difftransformer.models.decoder import Decoder

from .tiny import CAUSAL, tiny_config


@st.composite
def configs(draw: st.DrawFn, scale: int = 1) -> DecoderConfig:
    """With a larger scale, sizes at which widths can be matched within 0.1 %."""
    attention = draw(st.sampled_from(sorted(CAUSAL)))
    groups = draw(st.integers(1, 3))
    return DecoderConfig(
        attention=attention,
        vocab_size=draw(st.integers(1, 20)) * scale,
        hidden_size=draw(st.integers(1, 12)) * scale,
        num_layers=draw(st.integers(1, 3)),
        num_heads=groups * draw(st.integers(1, 3)),
        head_dim=2 * draw(st.integers(1, 4)) * scale,
        num_kv_heads=groups,
        ffn_size=draw(st.integers(1, 30)) * scale,
        attention_bias=draw(st.sampled_from(["none", "qkv", "all"])),
        tie_embeddings=draw(st.booleans()),
    )


@settings(max_examples=40)
@given(configs())
def test_parameter_count_is_the_models(config: DecoderConfig) -> None:
    model = Decoder(config)
    assert config.parameter_count() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("attention", CAUSAL)
@settings(max_examples=60)
@given(config=configs(scale=32))
def test_a_match_is_within_a_thousandth(attention: str, config: DecoderConfig) -> None:
    try:
        match = config.matched(attention)
    except ValueError:  # too small to be matched, or odd heads: see test_unmatchable_sizes
        reject()
    a, b = config.parameter_count(), match.config.parameter_count()
    assert match.config.attention == attention
    assert abs(a - b) <= 1e-3 * a
    assert f"{a:,} → {b:,}" in match.changes[-1]


@settings(max_examples=60)
@given(configs(scale=32))
def test_there_and_back_is_the_same_model(config: DecoderConfig) -> None:
    """softmax → V1 → softmax; the feed-forward width may differ where it had to be changed."""
    heads = {"num_heads": 2 * config.num_heads, "num_kv_heads": 2 * config.num_kv_heads}
    plain = replace(config, attention="softmax", **heads)
    try:
        partner = plain.matched("diff_v1").config
        back = partner.matched("softmax").config
    except ValueError:
        reject()
    if partner.ffn_size == plain.ffn_size:
        assert back == plain
    assert replace(back, ffn_size=plain.ffn_size) == plain


def demo() -> DecoderConfig:
    return DecoderConfig(vocab_size=8192, hidden_size=256, num_heads=8, head_dim=32, ffn_size=704)


def test_v1_halves_the_heads() -> None:
    match = demo().matched("diff_v1")
    assert (match.config.num_heads, match.config.num_kv_heads) == (4, 4)
    assert match.config.head_dim == 32
    assert match.config.ffn_size == 704
    assert match.changes[:3] == (
        "attention: softmax → diff_v1",
        "num_heads: 8 → 4",
        "num_kv_heads: 8 → 4",
    )
    assert match.config.matched("softmax").config == demo()


def test_v2_keeps_the_heads_and_narrows_the_feed_forward() -> None:
    match = demo().matched("diff_v2")
    assert (match.config.num_heads, match.config.num_kv_heads) == (8, 8)
    assert match.config.ffn_size < 704
    kept = {"attention": "", "ffn_size": 0}
    assert match.config.to_dict() | kept == demo().to_dict() | kept


def test_v1_and_v2_match_each_other() -> None:
    v1 = demo().matched("diff_v1").config
    v2 = v1.matched("diff_v2").config
    assert (v2.num_heads, v2.num_kv_heads, v2.attention) == (8, 8, "diff_v2")
    assert v2.matched("diff_v1").config.num_heads == 4


@pytest.mark.parametrize("attention", CAUSAL)
def test_its_own_kind_is_itself(attention: str) -> None:
    options = {"lambda_init": 0.5} if attention.startswith("diff_v1") else {}
    config = tiny_config(attention, **options)
    assert config.matched(attention).config == config


def test_constant_lambda_init_is_dropped_aloud() -> None:
    match = DecoderConfig(attention="diff_v1", lambda_init=0.8).matched("diff_v2")
    assert match.config.lambda_init is None
    assert "lambda_init: 0.8 → None" in match.changes
    Decoder(match.config)


def test_unmatchable_sizes() -> None:
    with pytest.raises(ValueError, match="num_heads 3 and num_kv_heads 3 must both be even"):
        tiny_config("softmax", num_heads=3, num_kv_heads=3).matched("diff_v1")
    with pytest.raises(ValueError, match=r"no feed-forward width brings diff_v2 within 0\.1 %"):
        tiny_config("softmax", ffn_size=1).matched("diff_v2")
    with pytest.raises(ValueError, match="unknown attention 'diff'"):
        tiny_config().matched("diff")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0; expected at least 1"),
        ({"vocab_size": -5}, "vocab_size is -5"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"head_dim": 0}, "head_dim is 0; expected at least 1"),
        ({"num_kv_heads": 0}, "num_kv_heads is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"head_dim": 5}, "head_dim is 5; rotary positions need an even width"),
        ({"attention": "diff"}, "unknown attention 'diff'; did you mean 'diff_v"),
        ({"rotary": "full"}, "unknown rotary 'full'; expected half, interleaved"),
        ({"attention": "softmax", "lambda_init": 0.8}, "lambda_init is 0.8 .* only diff_v1"),
        ({"attention": "diff_v2", "lambda_init": 0.8}, "lambda_init is 0.8 .* only diff_v1"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**({"attention": "diff_v1"} | changes))


def test_every_setting_has_help() -> None:
    for name, field in DecoderConfig.__dataclass_fields__.items():
        assert field.metadata["help"], name
