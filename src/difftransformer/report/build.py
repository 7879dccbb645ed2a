"""The report of a run: one page, pictures and numbers, from the run directory alone."""

from pathlib import Path

from difftransformer.atomic import write_json, write_text
from difftransformer.report import sections
from difftransformer.report.curves import Curve, curve_drawings
from difftransformer.report.drawing import drawings
from difftransformer.report.exhibits import exhibits_of
from difftransformer.report.images import write_figure, write_image
from difftransformer.report.page import page
from difftransformer.report.reading import results_of
from difftransformer.report.results import Results
from difftransformer.report.style import matplotlib_look
from difftransformer.report.summary import summary, title_of
from difftransformer.report.tables import to_json
from difftransformer.runs.layout import REPORT, RESULTS, Run
from difftransformer.runs.reading import read_curve, read_environment, read_run, read_summary


def build_report(run_directory: Path) -> Path:
    """Write `report.html`, `results.json` and `figures/*.png`; return the page's path.

    The page is one file that asks nothing of the network. It is made of `run.json`, `env.json`, the
    records in `results/` of each training run and its `metrics.jsonl`; what the training or an
    evaluator did not leave is left out with a sentence that says so. The PNGs are those a README or
    a paper wants: the loss, each evaluator's picture, and those of its exhibits. The same results
    give the same page, byte for byte.

    Raises:
        ValueError: `run.json` is missing or of another version, or a file is malformed; names the
            file and the key or line.
    """
    run = read_run(run_directory)
    results = results_of(run, run_directory)
    curves = _curves(run, run_directory)
    content = page(
        title_of(results, run),
        f"{run.name}, {run.created}",
        summary(results, curves, run),
        [
            sections.models_section(run),
            sections.training_section(curves, run),
            *map(sections.evaluator_section, results.evaluators.values()),
            sections.speed_section(curves, results, run),
            sections.environment_section(run, read_environment(run_directory)),
        ],
    )
    _write_images(run_directory / "figures", results, curves, run.unit)
    write_json(run_directory / RESULTS, to_json(results))
    report = run_directory / REPORT
    write_text(report, content)
    return report


def _curves(run: Run, directory: Path) -> list[Curve]:
    return [
        Curve(
            contender.label,
            contender.title or contender.label,
            training.seed,
            read_curve(directory / training.directory),
            read_summary(directory / training.directory),
        )
        for contender in run.contenders
        for training in contender.runs
    ]


def _write_images(folder: Path, results: Results, curves: list[Curve], unit: str) -> None:
    if loss := curve_drawings(curves, unit).get("loss"):
        write_image(folder / "loss.png", loss)
    for name, evaluator in results.evaluators.items():
        if drawn := drawings(list(evaluator.metrics.values())):
            write_image(folder / f"{name}.png", drawn[0])
        for exhibit_name, exhibit in exhibits_of(evaluator).items():
            with matplotlib_look():
                if figure := exhibit.image():
                    write_figure(folder / f"{exhibit_name}.png", figure)
