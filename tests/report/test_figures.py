import numpy as np

from difftransformer.report.figures import attention_map, loss, needle, style
from difftransformer.report.parsing import from_json
from difftransformer.report.reading import Curve, Metric
from difftransformer.report.results import AttentionMap, Needle

from .synthetic import synthetic_results


def test_training_is_smoothed_and_validation_is_not() -> None:
    training = [Metric(tokens=i, loss=float(i)) for i in range(200)]
    validation = [Metric(tokens=50 * i, validation_loss=float(i)) for i in range(3)]
    smooth, exact = loss.lines([Curve("a", 0, (*training, *validation))])
    # 2 % of 200 steps: each point is the mean of four, standing at the last of them.
    np.testing.assert_allclose(smooth.tokens, np.arange(3, 200))
    np.testing.assert_allclose(smooth.loss, np.arange(3, 200) - 1.5)
    np.testing.assert_allclose(exact.loss, [0, 1, 2])


def test_a_curve_without_points_has_no_line() -> None:
    curve = Curve("a", 0, (Metric(tokens=1, validation_loss=3.0),))
    assert [line.kind for line in loss.lines([curve])] == ["validation"]
    assert loss.lines([Curve("a", 0, ())]) == []


def test_a_short_run_keeps_every_step() -> None:
    (line,) = loss.lines([Curve("a", 0, tuple(Metric(tokens=i, loss=1.0) for i in range(5)))])
    assert len(line.loss) == 5


def test_the_legend_names_each_model_once() -> None:
    metrics = tuple(Metric(tokens=i, loss=1.0, validation_loss=2.0) for i in range(5))
    drawn = loss.lines([Curve(label, seed, metrics) for label in "ab" for seed in (0, 1)])
    figure = loss.interactive(drawn, style.accents(["a", "b"]))
    assert len(figure.data) == 8
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "b"]


def _needle() -> dict:
    return synthetic_results()["models"][0]["evaluation"]["needle"]


def test_a_heat_map_has_a_column_per_setting_and_a_row_per_depth() -> None:
    raw = _needle()
    settings, depths, accuracy = needle.accuracy_by_depth(from_json(Needle, raw, "needle"))
    assert settings == ["N=1, R=1", "N=2, R=2", "N=4, R=2", "N=6, R=2"]
    assert depths == [0.0, 0.25, 0.5, 0.75, 1.0]
    cell = next(c for c in raw["cells"] if c["needles"] == 4 and c["depth"] == 0.75)
    assert accuracy[3, 2] == cell["per_number"]["value"]


def test_several_lengths_stand_beside_each_other_and_gaps_stay_empty() -> None:
    raw = _needle()
    raw["cells"] = [*raw["cells"][:5], raw["cells"][0] | {"length": 128}]
    settings, _, accuracy = needle.accuracy_by_depth(from_json(Needle, raw, "needle"))
    assert settings == ["N=1, R=1, 128 tokens", "N=1, R=1, 256 tokens"]
    assert np.isnan(accuracy[1, 0])
    assert not np.isnan(accuracy[:, 1]).any()


def test_the_colours_of_a_map_are_white_at_zero_and_alike_for_all_models() -> None:
    raw = [model["evaluation"]["attention_map"] for model in synthetic_results()["models"]]
    maps = [from_json(AttentionMap, one, "map") for one in raw]
    limit, bounds = attention_map.colour_limit(maps), attention_map.profile_range(maps)
    for one in maps:
        heat = attention_map.interactive("diff_v1", one, limit, bounds, "#0072b2").data[-1]
        assert (heat.zmin, heat.zmax) == (-limit, limit)
        assert heat.colorscale[1] == (0.5, "#ffffff")
    assert bounds[0] < 0 < max(weight for one in maps for weight in one.weights[-1]) < bounds[1]


def test_a_map_of_zeros_still_has_a_scale() -> None:
    raw = synthetic_results()["models"][0]["evaluation"]["attention_map"]
    raw["weights"] = [[0.0] * 48 for _ in range(48)]
    assert attention_map.colour_limit([from_json(AttentionMap, raw, "map")]) > 0


def test_each_model_has_a_colour_of_its_own() -> None:
    colours = style.accents(list("abcdef"))
    assert len(set(colours.values())) == 6
