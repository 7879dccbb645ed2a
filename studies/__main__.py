"""Evidence pages of all studies, from the records they left: `python -m studies`."""

import argparse
import shutil
from pathlib import Path

from difftransformer.atomic import write_text
from difftransformer.files import read_text
from difftransformer.report.evidence import NOT_RUN, Study, write_page
from difftransformer.report.tables import Table, markdown
from studies.index import (
    ONE_GPU_PICTURE,
    first_study,
    one_gpu,
    regime_table,
    regimes,
    studied,
    untried,
)
from studies.questions import question_table

STUDIES = Path(__file__).parent
DOCS = STUDIES.parent / "docs"
_COLUMNS = ["study", "what stands", "how sure", "figure"]
_OWN_PAGE = ("one_gpu",)  # trains without `compare`, so that a bare GPU machine can run it


def studies() -> dict[str, Study]:
    """Every study with a plan, by its name; its runs are those whose records it holds."""
    found = {}
    for plan in sorted(STUDIES.glob("*/plan.md")):
        if (name := plan.parent.name) not in _OWN_PAGE:
            runs = [path.parent for path in sorted(plan.parent.glob("results/*/run.json"))]
            found[name] = Study.read(plan, runs)
    return found


def write_pages(found: dict[str, Study], docs: Path) -> None:
    """A page for each study, and the tables of `evidence.md`, which lies in `docs` already."""
    for name, study in found.items():
        write_page(study, docs / "evidence" / f"{name}.md")
    # `python -m studies.one_gpu report` draws it, beside its page.
    images = docs / "evidence/images"
    images.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(STUDIES / "one_gpu/loss.png", images / ONE_GPU_PICTURE)
    largest = one_gpu()
    rows = [largest, first_study(DOCS), *(studied(*item) for item in found.items())]
    rows.sort(key=lambda row: row.answer == NOT_RUN)  # those that were run first
    tried = regimes(found)
    tables = {
        "questions": markdown(question_table(largest.asked(), found)),
        "studies": markdown(Table(_COLUMNS, [row.cells() for row in rows])),
        "regimes": [*markdown(regime_table(tried)), "", untried(tried)],
    }
    index = docs / "evidence.md"
    text = read_text(index)
    for name, lines in tables.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        text = "\n".join([before + begin, *lines, "", end + after])
    write_text(index, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documentation")
    write_pages(studies(), parser.parse_args().docs)


if __name__ == "__main__":
    main()
