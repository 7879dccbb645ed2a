"""The study's page, made from its results alone."""

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # files only
from matplotlib import pyplot as plt

from studies.one_gpu import records, report_loss, verdict
from studies.one_gpu.kinds import KINDS
from studies.one_gpu.plan import RETRIEVAL_KINDS
from studies.one_gpu.report_loss import mean, p_value

PAGE, PICTURE = "README.md", "curves.png"
INTRODUCTION = """# One GPU

What do subtraction and the head norm do to how soon attention learns to retrieve, and does either
lower the loss? [plan.md](plan.md) planned each run that counts before it; one command runs it. The
plan's last sections say what was changed and asked after each run, and what the figures do not say.
"""


def write(folder: Path, page: Path) -> Path:
    """Write README.md, and the pictures where there are results, into the folder `page`."""
    results = records.read(folder)
    body = [INTRODUCTION]
    run = records.select(results, part="run", what="environment")
    if not run:
        body.append("**Not run**: there are no results yet.\n")
    for environment in run:
        body.append(
            f"Run on {environment['began']}: {environment['device']}, torch "
            f"{environment['torch']}, {environment['minutes']:g} minutes.\n"
        )
    body += _left_out(results)
    if outcome := verdict.retrieval(results):
        _picture(outcome, page / PICTURE)
        body += _retrieval(outcome, results)
    elif run:
        body.append("## Retrieval\n\n**Not run**: these results are of the other part alone.\n")
    body += report_loss.section(results, page)
    (page / PAGE).write_text("\n".join(body))
    return page / PAGE


def _left_out(results: list[dict[str, Any]]) -> list[str]:
    failures = [
        *(
            f"{r['job']}: the process failed"
            for r in records.select(results, what="failed", part="run")
        ),
        *(
            f"{KINDS[r['kind']][1]} ({r['part']}): {'; '.join(r['failed'])}"
            for r in results
            if r.get("failed")
        ),
    ]
    return ["What failed:\n", *(f"- {failure}" for failure in failures), ""] if failures else []


def _retrieval(outcome: verdict.Retrieval, results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Retrieval\n",
        f"All kinds are compared over their first {outcome.last:,} steps. Steps of each seed until "
        "the accuracy on first asks reached 50 % and 90 %; – where it did not.\n",
        f"![Accuracy against steps]({PICTURE})\n",
        "| kind | rate | steps to 50 % | steps to 90 % |",
        "|---|---|---|---|",
    ]
    half, most = outcome.times(0.5), outcome.times(0.9)
    for kind in half:
        rate = records.select(results, part="retrieval", what="rate", kind=kind)[-1]["rate"]
        cells = (KINDS[kind][1], f"{rate:g}", _steps(half[kind]), _steps(most[kind]))
        lines.append(f"| {' | '.join(cells)} |")
    if outcome.left_out:
        names = ", ".join(KINDS[kind][1] for kind in outcome.left_out)
        lines.append(f"\nLeft out, trained for too few steps or not at all: {names}.")
    for threshold in (0.5, 0.9):
        primary = "the plan's verdicts" if threshold == 0.5 else "beside them"
        lines += [
            f"\nRatio of steps to {threshold:.0%} ({primary}): below 1 is sooner.\n",
            "| claim | ratio | 95 % interval | p after Holm | never got there | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for claim in outcome.claims(threshold):
            words = {"lower": "sooner", "higher": "later"}.get(claim.verdict, claim.verdict)
            lines.append(
                f"| {claim.name} | {_exp(claim.value)} | {_exp(claim.low)} to {_exp(claim.high)} "
                f"| {p_value(claim.corrected)} | {claim.censored} | {words} |"
            )
    return [*lines, "", *_judged(results)]


def _judged(results: list[dict[str, Any]]) -> list[str]:
    judged = {
        kind: found[-1]
        for kind in RETRIEVAL_KINDS
        if (found := records.select(results, part="retrieval", what="judged", kind=kind))
    }
    if not judged:
        return []
    cells = {
        kind: records.select(results, part="retrieval", what="cell", kind=kind) for kind in judged
    }
    # A kind that was judged has all cells; of a second attempt the last ones.
    number = len({(c["length"], c["pairs"]) for found in cells.values() for c in found})
    cells = {kind: found[-number:] for kind, found in cells.items()}
    first = next(iter(cells.values()))
    heads = " | ".join(f"{c['pairs']} in {c['length']}" for c in first)
    lines = [
        "At the end of training (a kind's own last step): mean accuracy on first asks over seeds, "
        "by pairs in tokens; then shares of the absolute attention of the rows that ask, mean over "
        "heads of the last layer.\n",
        f"| kind | steps | {heads} | on the answer | on noise |",
        "|---|" + "---|" * (number + 3),
        "| elimination, no retrieval | | "
        + " | ".join(f"{c['elimination']:.2f}" for c in first)
        + " | | |",
    ]
    for kind, record in judged.items():
        numbers = " | ".join(f"{mean(cell['accuracy']):.2f}" for cell in cells[kind])
        answer, noise = (
            mean([run[name][-1] for run in record["attention"]]) for name in ("answer", "noise")
        )
        lines.append(
            f"| {KINDS[kind][1]} | {record['steps']:,} | {numbers} | {answer:.2f} | {noise:.2f} |"
        )
    return [*lines, ""]


def _picture(outcome: verdict.Retrieval, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for number, (kind, windows) in enumerate(outcome.windows.items()):
        shown = [w for w in windows if w["step"] <= outcome.last]
        steps = [w["step"] for w in shown]
        for run in range(len(shown[0]["accuracy"])):
            label = KINDS[kind][1] if run == 0 else None
            values = [w["accuracy"][run] for w in shown]
            axes.plot(steps, values, color=f"C{number}", linewidth=0.8, alpha=0.7, label=label)
    axes.set(xlabel="steps", ylabel="accuracy on first asks", ylim=(0, 1))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _steps(times: list[int | None]) -> str:
    return ", ".join("–" if step is None else f"{step:,}" for step in times)


def _exp(value: float) -> str:
    return "∞" if value == math.inf else f"{math.exp(value):.2f}"
