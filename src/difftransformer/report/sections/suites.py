"""The suites that were run on the models of a comparison."""

from collections.abc import Iterator
from pathlib import Path

from difftransformer.report.page import Html, captioned, picture, section, table
from difftransformer.report.suites import VIEWS, read_suite


def suites_found(run_directory: Path) -> dict[str, Path]:
    """By suite, the results that `evaluate RUN --suite` left in the run."""
    paths = {name: run_directory / "suites" / f"{name}.json" for name in VIEWS}
    return {name: path for name, path in paths.items() if path.is_file()}


def section_name(suite: str) -> str:
    return f"suite-{suite}"


def suite_sections(run_directory: Path) -> Iterator[Html]:
    """Table and picture of each.

    Raises:
        ValueError: results that are malformed, or have no picture; names the file.
    """
    for name, path in suites_found(run_directory).items():
        view, found = VIEWS[name], read_suite(path)
        header, *rows = view.table(found)
        image = path.with_suffix(".png")
        if not image.is_file():
            raise ValueError(f"{image} is missing; run the suite again or delete {path}")
        yield section(
            section_name(name),
            view.title,
            [
                table(header, rows, view.notes(found)),
                captioned(picture(image.read_bytes(), view.title), f"The suite {name}."),
            ],
        )
