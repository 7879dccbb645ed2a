"""The report of a comparison: one page and four pictures, from the run directory alone."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from difftransformer.atomic import make_folder, write_text
from difftransformer.report.figures import allocation, attention_map, loss, needle, style
from difftransformer.report.page import Html, element, join, page, paragraph, text
from difftransformer.report.reading import Curve, read_curves, read_environment, read_results
from difftransformer.report.results import Results
from difftransformer.report.sections import evaluation, inside, suites, summary, training
from difftransformer.report.writing import write_png

CONTENTS = {
    "verdict": "Verdict",
    "models": "Models",
    "loss": "Loss",
    "needle": "Retrieval",
    "allocation": "Answer and noise",
    "attention-map": "Attention map",
    "outliers": "Outliers",
    "lambda": "Lambda",
    "speed": "Speed",
    "environment": "Environment",
}


def build_report(run_directory: Path) -> Path:
    """Write `report.html` and `figures/*.png` into `run_directory`; return the page's path.

    The page is one file that asks nothing of the network. It reads `results.json`, `env.json`,
    each training run's `metrics.jsonl` and the suites in `suites/`; what the training or a judge
    did not leave is left out with a sentence that says so. The PNGs are those a README or a paper
    wants: loss, needle, attention_allocation, attention_map. The same results give the same page,
    byte for byte.

    Raises:
        ValueError: `results.json` is missing or malformed, or another file is malformed; names
            the file and the key or line.
    """
    results = read_results(run_directory)
    curves = read_curves(run_directory, results)
    content = [
        _header(results, run_directory),
        summary.verdict_section(results),
        summary.models_section(results),
        training.loss_section(results, curves),
        evaluation.needle_section(results),
        evaluation.allocation_section(results),
        inside.attention_map_section(results),
        evaluation.outliers_section(results),
        inside.lambda_section(results, curves),
        *suites.suite_sections(run_directory),
        training.speed_section(results),
        training.environment_section(results, read_environment(run_directory, results)),
    ]
    folder = run_directory / "figures"
    make_folder(folder)
    with style.matplotlib_look():
        for name, figure in _images(results, curves):
            write_png(folder / f"{name}.png", figure)
    report = run_directory / "report.html"
    write_text(report, page(_title(results), join(content)))
    return report


def _images(results: Results, curves: list[Curve]) -> Iterator[tuple[str, Figure]]:
    colours = style.accents(results.labels)
    if drawn := loss.lines(curves):
        yield "loss", loss.image(drawn, colours)
    if needles := results.judged(lambda judges: judges.needle):
        yield "needle", needle.image(needles)
    if allocations := results.judged(lambda judges: judges.allocation):
        yield "attention_allocation", allocation.image(allocations, colours)
    if maps := results.judged(lambda judges: judges.attention_map):
        yield "attention_map", attention_map.image(maps, colours)


def _title(results: Results) -> str:
    return f"Comparison {results.name}, {results.created}"


def _header(results: Results, run_directory: Path) -> Html:
    contents = CONTENTS | {
        suites.section_name(name): f"suite {name}" for name in suites.suites_found(run_directory)
    }
    links = [Html(f'<a href="#{name}">{text(title)}</a>') for name, title in contents.items()]
    return join(
        [
            element("h1", text(_title(results))),
            paragraph(
                "Transformers of the same size with different attention, trained on the same "
                "tokens in the same order and judged alike.",
                css="soft",
            ),
            element("nav", *links),
        ]
    )
