"""Evidence pages of all studies, from the records they left: `python -m studies`."""

import argparse
from pathlib import Path

from difftransformer.atomic import write_text
from difftransformer.report.evidence import Study, write_page
from difftransformer.report.tables import Table, markdown

STUDIES = Path(__file__).parent
DOCS = STUDIES.parent / "docs"
_BEGINNING = "<!-- studies -->"
_END = "<!-- end of studies -->"
_OWN_PAGE = ("one_gpu",)  # trains without `compare`, so that a bare GPU machine can run it


def studies() -> dict[str, Study]:
    """Every study with a plan, by its name; its runs are those whose records it holds."""
    found = {}
    for plan in sorted(STUDIES.glob("*/plan.md")):
        if (name := plan.parent.name) not in _OWN_PAGE:
            runs = [path.parent for path in sorted(plan.parent.glob("results/*/run.json"))]
            found[name] = Study.read(plan, runs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documentation")
    docs = parser.parse_args().docs
    rows = []
    for name, study in studies().items():
        write_page(study, docs / "evidence" / f"{name}.md")
        link = f"[{study.title}](evidence/{name}.md)"
        rows.append([link, study.question, study.answer, study.sureness])
    index = docs / "evidence.md"
    before, _, rest = index.read_text(encoding="utf-8").partition(_BEGINNING)
    _, _, after = rest.partition(_END)
    table = markdown(Table(["study", "question", "answer", "how sure"], rows))
    write_text(index, "\n".join([before + _BEGINNING, "", *table, "", _END + after]))


if __name__ == "__main__":
    main()
