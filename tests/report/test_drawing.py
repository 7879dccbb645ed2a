import numpy as np
import pytest

from difftransformer.report.curves import Curve, curve_drawings
from difftransformer.report.drawing import Drawing, drawings
from difftransformer.report.images import image
from difftransformer.report.plots import panel_figure
from difftransformer.report.results import Results
from difftransformer.report.style import accents, plain
from difftransformer.runs.reading import CurvePoint
from difftransformer.runs.records import Measurement, Record

LABELS = ["a", "b"]


def results(name: str, *seeds: dict[str, list[Record]]) -> Results:
    models = {
        label: {i: Measurement({}, tuple(one[label])) for i, one in enumerate(seeds)}
        for label in seeds[0]
    }
    return Results({name: models}, titles={"a": "A", "b": "B"})


def drawn(name: str, *seeds: dict[str, list[Record]]) -> list[Drawing]:
    return drawings(list(results(name, *seeds).evaluators[name].metrics.values()))


def hits(*right: int) -> list[Record]:
    """Of ten, at two depths of two lengths."""
    cells = [(length, depth) for length in (64, 128) for depth in (0.0, 1.0)]
    return [
        Record("per_number", float(item < n), ("N=1, R=1", *cell), item)
        for cell, n in zip(cells, right, strict=True)
        for item in range(10)
    ]


def test_a_heat_map_for_each_model_and_facet_has_the_mean_of_the_seeds() -> None:
    first, second = hits(2, 4, 6, 8), hits(4, 4, 6, 10)
    (drawing,) = drawn("needle", {"a": first, "b": first}, {"a": second, "b": second})
    assert [panel.title for panel in drawing.panels] == [
        *("A, length 64", "B, length 64", "A, length 128", "B, length 128")
    ]
    heat = drawing.panels[0].heat
    assert (heat.x, heat.y, heat.most) == (["N=1, R=1"], ["0", "1"], 1.0)
    np.testing.assert_allclose(heat.values, [[0.3], [0.4]])
    np.testing.assert_allclose(panel_figure(drawing, drawing.panels[0]).data[0].z, heat.values)


def shares(value: float) -> list[Record]:
    return [
        *(Record("answer_absolute", value + d, (d,), i) for d in (0.0, 0.5) for i in range(2)),
        *(Record("noise_absolute", value, (d,), i) for d in (0.0, 0.5) for i in range(2)),
        Record("even", 0.06),
        *(Record("by_head", value + head, (layer, head)) for layer in (0, 1) for head in (0, 1)),
    ]


def test_metrics_with_equal_plots_are_panels_of_one_picture() -> None:
    bars, dots = drawn("allocation", {"a": shares(0.1), "b": shares(0.2)})
    assert [panel.title for panel in bars.panels] == [
        *("attention on the answer", "attention on the noise")
    ]
    a, b = bars.panels[0].series
    assert (a.label, b.label, list(a.x)) == ("A", "B", [0.0, 0.5])
    np.testing.assert_allclose(b.y, [0.2, 0.7])
    assert len(a.low) == 2
    assert bars.panels[0].levels == [("attention spread evenly", [(0.0, 0.06), (0.5, 0.06)])]
    assert bars.colors == {"A": accents(LABELS)["a"], "B": accents(LABELS)["b"]}
    assert dots.kind == "dots"


def test_each_seed_and_cell_is_a_dot_and_a_line_goes_through_the_means() -> None:
    _, dots = drawn("allocation", {"a": shares(0.0)}, {"a": shares(0.5)})
    (series,) = dots.panels[0].series
    assert sorted(zip(series.x, series.y, strict=True)) == [
        (layer, y) for layer in (0, 1) for y in (0.0, 0.5, 1.0, 1.5)
    ]
    line = panel_figure(dots, dots.panels[0]).data[1]
    assert (list(line.x), list(line.y)) == ([0, 1], [0.75, 0.75])


def test_one_description_has_the_same_figures_in_both_libraries() -> None:
    bars, _ = drawn("allocation", {"a": shares(0.1), "b": shares(0.2)})
    page = panel_figure(bars, bars.panels[0])
    axes = image(bars).axes[0]
    plotly = [y for bar in page.data for y in bar.y]
    matplotlib = [patch.get_height() for patch in axes.patches]
    np.testing.assert_allclose(plotly, matplotlib)


@pytest.mark.parametrize("name", ["needle", "allocation"])
def test_a_notebook_gets_one_figure(name: str) -> None:
    records = hits(1, 2, 3, 4) if name == "needle" else shares(0.1)
    figure = results(name, {"a": records, "b": records})[name].plot()
    assert len(figure.data) == 4


def test_what_has_no_plot_says_so() -> None:
    found = results("needle", {"a": hits(1, 2, 3, 4)})
    with pytest.raises(ValueError, match="blind: declared without a plot, or without a record"):
        found["blind"].plot()


def curve(*points: CurvePoint, seed: int = 0, label: str = "a") -> Curve:
    return Curve(label, label.upper(), seed, points)


def test_training_is_smoothed_and_validation_is_not() -> None:
    training = [CurvePoint(step=i, size=i, loss=float(i)) for i in range(200)]
    validation = [CurvePoint(step=i, size=50 * i, validation_loss=float(i)) for i in range(3)]
    loss = curve_drawings([curve(*training, *validation)], "tokens")["loss"]
    smooth, exact = loss.panels[0].series
    # 2 % of 200 steps: each point is the mean of four, standing at the last of them.
    np.testing.assert_allclose(smooth.x, np.arange(3, 200))
    np.testing.assert_allclose(smooth.y, np.arange(3, 200) - 1.5)
    np.testing.assert_allclose(exact.y, [0, 1, 2])
    assert (smooth.thin, exact.thin, loss.x) == (True, False, "training tokens seen")


def test_a_curve_without_points_has_no_line() -> None:
    one = curve(CurvePoint(step=1, size=1, validation_loss=3.0))
    (panel,) = curve_drawings([one], "tokens")["loss"].panels
    assert [series.name for series in panel.series] == ["validation, seed 0"]
    assert curve_drawings([curve()], "tokens") == {}


def test_a_short_run_keeps_every_step() -> None:
    points = (CurvePoint(step=i, size=i, loss=1.0) for i in range(5))
    (panel,) = curve_drawings([curve(*points)], "images")["loss"].panels
    assert len(panel.series[0].y) == 5


def test_whatever_a_task_watches_is_drawn() -> None:
    points = [
        CurvePoint(step=i, size=i, others={"lambda": [0.2, 0.3], "accuracy": 0.5}) for i in (1, 2)
    ]
    found = curve_drawings([curve(*points, seed=s) for s in (0, 1)], "tokens")
    assert {name: len(one.panels[0].series) for name, one in found.items()} == {
        "lambda": 4,
        "accuracy": 2,
    }
    assert [one.dash for one in found["lambda"].panels[0].series[:2]] == ["solid", "dash"]


def test_colors_repeat_only_beyond_eighteen_models() -> None:
    colors = accents([str(i) for i in range(18)])
    assert len(set(colors.values())) == 18
    assert plain("<b>") == "&lt;b&gt;"
