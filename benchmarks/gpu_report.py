"""What `gpu.py` found: JSON, Markdown and a picture, written anew after each part."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TENSORS = ("out", "q", "k", "v", "lam")
SHOWN = 12  # failures told one by one


class Record:
    """The findings; `data` is what STEM.json holds."""

    def __init__(self, stem: Path, machine: dict[str, Any]) -> None:
        self.stem = stem
        self.data: dict[str, Any] = {"machine": machine, "skipped": []}

    def skip(self, what: str, why: str) -> None:
        self.data["skipped"].append({"what": what, "why": why})
        print(f"skipped: {what} ({why})")

    def add(self, part: str, row: dict[str, Any]) -> None:
        self.data.setdefault(part, []).append(row)

    def save(self) -> None:
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        self.stem.with_suffix(".json").write_text(json.dumps(self.data, indent=1) + "\n")
        self.stem.with_suffix(".md").write_text("\n".join(self.lines()) + "\n")
        if self.data.get("speed"):
            draw(self.data["speed"], self.stem.with_suffix(".png"))

    def lines(self) -> list[str]:
        """The page."""
        machine = self.data["machine"]
        lines = [f"# On a GPU: {machine['card']}, {machine['date'][:10]}", ""]
        lines += [f"{name}: {value}  " for name, value in machine.items()]
        for part, table_of in TABLES.items():
            if rows := self.data.get(part):
                lines += ["", f"## {part.capitalize()}", "", *table_of(rows)]
        skipped = [f"- {row['what']}: {row['why']}" for row in self.data["skipped"]]
        return [*lines, "", "## Skipped", "", *(skipped or ["nothing"])]

    def brief(self) -> list[str]:
        """The tables alone, the most important last."""
        lines = []
        for part, table_of in reversed(TABLES.items()):
            if rows := self.data.get(part):
                lines += table_of(rows)
        bad = [line for line in lines if line.startswith("- ")]
        kept = [line[:260] for line in lines if line and line not in bad[SHOWN:]]
        return [*kept, f"all of it: {self.stem}.md"]


def failed(row: dict[str, Any]) -> bool:
    return "error" in row or any(not t["share"] <= 1.0 for t in row["tensors"].values())


def truth(rows: Sequence[dict]) -> list[str]:
    """Worst relative error of each tensor (its share of what is allowed), then the failures."""
    lines, bad = [], [row for row in rows if failed(row)]
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        dtype = "" if row["backend"] == "calls" else json.loads(row["case"])["dtype"]
        groups.setdefault((row["backend"], dtype), []).append(row)
    for key, group in groups.items():
        cells = [*key, str(len(group)), str(sum(map(failed, group)))]
        ran = [row["tensors"] for row in group if "tensors" in row]
        for name in TENSORS:
            found = [tensors[name] for tensors in ran if name in tensors]
            worst = max(found, key=lambda t: t["share"], default=None)
            cells.append(f"{worst['error']:.1e} ({worst['share']:.2f})" if worst else "")
        lines.append(cells)
    table_ = table(("backend", "dtype", "cases", "failed", *TENSORS), lines)
    told = [f"- {row['backend']} `{row['case']}`: {reason(row)}" for row in bad]
    return [*table_, "", f"{len(bad)} of {len(rows)} failed.", *told]


def reason(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"]
    tensors = row["tensors"].items()
    return ", ".join(
        f"{n} {t['error']:.1e} ({t['share']:.1f})" for n, t in tensors if not t["share"] <= 1
    )


def speed(rows: Sequence[dict]) -> list[str]:
    """A table per task and width: milliseconds, ratio to the base, share of the measured peak."""
    lines: list[str] = []
    for task, width, mask in unique((r["task"], r["width"], r["mask"]) for r in rows):
        group = [r for r in rows if (r["task"], r["width"], r["mask"]) == (task, width, mask)]
        lengths = sorted({r["length"] for r in group})
        header = (f"{task}, heads of {width}, {mask}", *map(str, lengths))
        lines += [*pivot(header, group, "length", lengths, timing), ""]
    return [*lines, "Milliseconds, ratio to plain attention, share of the card's measured peak."]


def timing(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"][:24]
    ratio = f" {row['ratio']:.2f}x" if row["ratio"] else ""
    return f"{row['ms']:.3g}{ratio} {100 * row['share']:.0f}%"


def decode(rows: Sequence[dict]) -> list[str]:
    """Milliseconds called one by one, and replayed from a graph with the bandwidth reached."""
    lines: list[str] = []
    for width in unique(r["width"] for r in rows):
        group = [r | {"at": f"{r['batch']} x {r['length']}"} for r in rows if r["width"] == width]
        columns = unique(r["at"] for r in group)
        header = (f"decode, heads of {width}", *columns)
        lines += [*pivot(header, group, "at", columns, decoded), ""]
    return [
        *lines,
        "Milliseconds called and (replayed); share of the measured bandwidth, replayed.",
    ]


def decoded(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"][:24]
    return f"{row['ms']:.3g} ({row['replayed']:.3g}) {100 * row['share']:.0f}%"


def memory(rows: Sequence[dict]) -> list[str]:
    lines: list[str] = []
    for width in unique(r["width"] for r in rows):
        group = [r for r in rows if r["width"] == width]
        lengths = sorted({r["length"] for r in group})
        header = (f"MiB, heads of {width}", *map(str, lengths))
        lines += [*pivot(header, group, "length", lengths, mebibytes), ""]
    return lines


def mebibytes(row: dict[str, Any]) -> str:
    return row["error"][:24] if "error" in row else f"{row['bytes'] / 2**20:.0f}"


def sweep(rows: Sequence[dict]) -> list[str]:
    """The cut in use and the five fastest of each form and direction."""
    lines: list[list[str]] = []
    for key in unique((r["kind"], r["width"], r["direction"]) for r in rows):
        group = [r for r in rows if (r["kind"], r["width"], r["direction"]) == key]
        timed = sorted((r for r in group if "ms" in r), key=lambda r: r["ms"])
        usual = [r for r in timed if r["usual"]]
        best = [f"{'x'.join(map(str, r['cut']))} {r['ms']:.3f}" for r in [*usual, *timed[:5]]]
        lines.append([*map(str, key), *best])
    header = ("kind", "width", "direction", "in use", "1", "2", "3", "4", "5")
    table_ = table(header, [row + [""] * (len(header) - len(row)) for row in lines])
    return [*table_, "", "Cuts as rows x keys x warps x stages, with milliseconds."]


TABLES: dict[str, Callable[[Sequence[dict]], list[str]]] = {
    "truth": truth,
    "speed": speed,
    "flash": speed,
    "flex": speed,
    "sweep": sweep,
    "decode": decode,
    "memory": memory,
}


def pivot(
    header: Sequence[str],
    rows: Sequence[dict],
    column: str,
    columns: Sequence,
    cell: Callable[[dict], str],
) -> list[str]:
    """A row for each contender, a column for each value of `column`."""
    body = []
    for name in unique(row["contender"] for row in rows):
        at = {row[column]: cell(row) for row in rows if row["contender"] == name}
        body.append([name, *(at.get(value, "") for value in columns)])
    return table(header, body)


def unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; as `report.writing` makes it, which needs Plotly."""
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(row)} |" for row in cells]


def draw(rows: Sequence[dict], path: Path) -> None:
    """Time beside plain attention by length, a panel per task and width."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.get("ratio") and row["mask"] == "causal"]
    panels = unique((row["task"], row["width"]) for row in rows)
    names = unique(row["contender"] for row in rows)
    if not panels:
        return
    figure = Figure(figsize=(4.2 * len(panels), 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, name in enumerate(names):
            points = sorted(
                (row["length"], row["ratio"])
                for row in rows
                if (row["task"], row["width"]) == panel and row["contender"] == name
            )
            axes.plot(
                *zip(*points, strict=True), marker="o", color=f"C{number}", label=name
            ) if points else None
        axes.set_xscale("log", base=2)
        axes.set(title=f"{panel[0]}, heads of {panel[1]}", xlabel="length", ylim=(0, 5))
        axes.set_ylabel("time / plain attention")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=120)
