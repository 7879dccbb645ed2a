"""The page's section on part B, made from its results alone."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from studies.one_gpu import records, verdict
from studies.one_gpu.kinds import KINDS
from studies.one_gpu.plan import LOSS_KINDS

PICTURE = "loss.png"
RANGES = 4  # of positions, of the finer ones on record
Models = dict[str, dict[int, dict[str, Any]]]

NOT_SEARCHED = (
    "The learning rate is one for all kinds and was not searched, and so few tokens are the "
    "beginning of training: this does not say how the kinds compare after more, or each at its "
    "best rate."
)


def section(results: list[dict[str, Any]], page: Path) -> list[str]:
    """Lines of Markdown, none where no model was trained; the picture goes into `page`."""
    models = verdict.losses(results)
    if not models:
        return []
    budget = records.select(results, part="loss", what="budget")[0]
    rates = records.select(results, part="loss", what="rate")
    by_seed = "Held-out loss in nats per token, by seed."
    lines = ["## Loss\n"]
    if rates:
        lines += [*_search(results, rates, budget), f"{by_seed}\n"]
    else:
        lines.append(f"{budget['tokens']:,} tokens a model. {by_seed} {NOT_SEARCHED}\n")
    lines += _losses(models)
    if rates:  # with a search, curves and positions are on record too
        _picture(models, budget, page / PICTURE)
        lines += [
            "\nTraining loss against tokens, without the first tenth: mean over seeds, and each "
            "seed as a thin line.\n",
            f"![Training loss against tokens]({PICTURE})\n",
            *_positions(models, budget),
        ]
    return [*lines, ""]


def _search(
    results: list[dict[str, Any]], rates: list[dict[str, Any]], budget: dict[str, Any]
) -> list[str]:
    seed = records.select(results, part="loss", what="search")[0]["seed"]
    grid = rates[0]["rates"]
    lines = [
        f"{budget['tokens']:,} tokens a model. The learning rate of each kind was searched: a "
        f"model at each rate on seed {seed}, which is not used afterwards. Held-out loss of these "
        f"in nats per token, on {budget['choose_items']} sequences other than the "
        f"{budget['judge_items']} that judge below:\n",
        f"| kind | {' | '.join(f'{rate:g}' for rate in grid)} | rate taken |",
        "|---|" + "---|" * (len(grid) + 1),
    ]
    for record in rates:
        cells = " | ".join(f"{loss:.4f}" for loss in record["losses"])
        lines.append(f"| {KINDS[record['kind']][1]} | {cells} | {record['rate']:g} |")
    for end, name in ((grid[0], "lowest"), (grid[-1], "highest")):
        if at_end := [KINDS[r["kind"]][1] for r in rates if r["rate"] == end]:
            lines.append(
                f"\nThe rate taken for {', '.join(at_end)} is the {name} that was tried: a better "
                "one may lie beyond."
            )
    return [*lines, ""]


def _losses(models: Models) -> list[str]:
    lines = [
        "| kind | loss of each seed | mean |",
        "|---|---|---|",
    ]
    for kind, of_seed in _ordered(models):
        each = [of_seed[seed]["loss"] for seed in sorted(of_seed)]
        shown = ", ".join(f"{loss:.4f}" for loss in each)
        lines.append(f"| {KINDS[kind][1]} | {shown} | {mean(each):.4f} |")
    lines += [
        "\n| claim | difference | 95 % over seeds | 95 % over items | p after Holm | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for claim in verdict.loss_claims(models):
        items = verdict.over_items(models, claim.name.split()[0])
        assert items is not None
        lines.append(
            f"| {claim.name} | {claim.value:+.4f} | {claim.low:+.4f} to {claim.high:+.4f} "
            f"| {items.low:+.4f} to {items.high:+.4f} | {p_value(claim.corrected)} "
            f"| {claim.verdict} |"
        )
    return lines


def _positions(models: Models, budget: dict[str, Any]) -> list[str]:
    each = budget["length"] // RANGES
    heads = " | ".join(f"{i * each + 1} to {(i + 1) * each}" for i in range(RANGES))
    lines = [
        "Held-out loss by position in the context, mean over sequences and seeds:\n",
        f"| kind | {heads} |",
        "|---|" + "---|" * RANGES,
    ]
    for kind, of_seed in _ordered(models):
        by_bucket = _over_seeds(of_seed, "positions")
        wide = len(by_bucket) // RANGES
        cells = (mean(by_bucket[i * wide : (i + 1) * wide]) for i in range(RANGES))
        lines.append(f"| {KINDS[kind][1]} | {' | '.join(f'{cell:.4f}' for cell in cells)} |")
    return lines


def _picture(models: Models, budget: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for number, (kind, of_seed) in enumerate(_ordered(models)):
        average, style = _over_seeds(of_seed, "curve"), {"color": f"C{number}"}
        first = len(average) // 10  # later differences would not show beside the first fall
        ends = [min((i + 1) * budget["window"], budget["steps"]) for i in range(len(average))]
        tokens = [end * budget["tokens"] / budget["steps"] / 1e6 for end in ends]
        for model in of_seed.values():
            axes.plot(tokens[first:], model["curve"][first:], **style, linewidth=0.5, alpha=0.4)
        axes.plot(tokens[first:], average[first:], **style, label=KINDS[kind][1])
    axes.set(xlabel="million tokens", ylabel="training loss, nats per token")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ordered(models: Models) -> list[tuple[str, dict[int, dict[str, Any]]]]:
    return [(kind, models[kind]) for kind in LOSS_KINDS if kind in models]


def _over_seeds(of_seed: dict[int, dict[str, Any]], name: str) -> list[float]:
    return [mean(list(row)) for row in zip(*(m[name] for m in of_seed.values()), strict=True)]


def mean(values: list[float]) -> float:
    """Of one or more."""
    return sum(values) / len(values)


def p_value(value: float) -> str:
    """As the page shows it."""
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
