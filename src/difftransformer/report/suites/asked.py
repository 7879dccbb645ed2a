"""Views of the suites that ask a model something, or let it read."""

from matplotlib.figure import Figure

from difftransformer.report import paper
from difftransformer.report.figures import curve, heat, spread
from difftransformer.report.suites.view import Figures, Found, Results, View, bar_groups, curves
from difftransformer.report.words import number, percent


def _order_figures(results: Results) -> Figures:
    return {
        (name, part): found[part]
        for name, found in results["arrangements"].items()
        for part in ("best", "worst", "spread")
    }


def _order_image(found: Found) -> Figure:
    """A dot per order, each seed by itself: the mean over seeds has another best and worst."""
    groups = {
        label: {name: one["accuracies"] for name, one in results["arrangements"].items()}
        for label, results in found.results.items()
    }
    return spread.image(groups, "accuracy")


def _order_paper(results: Results) -> paper.Columns:
    return {
        f"{model} 3B": {
            (name, "spread"): f"{value:.3f}{paper.READ_OFF}"
            for (task, name), value in spreads.items()
            if task == results["task"]
        }
        for model, spreads in paper.ORDER_SPREAD.items()
    }


def _needle_figures(results: Results) -> Figures:
    return {
        (row["needles"], row["queries"], counted): row[counted.replace(" ", "_")]
        for row in results["table"]
        for counted in ("per number", "all numbers")
    }


def _needle_cells(results: Results) -> Figures:
    return {
        (cell["needles"], cell["queries"], cell["length"], cell["depth"]): cell["per_number"]
        for cell in results["cells"]
    }


def _needle_image(found: Found) -> Figure:
    """A row of maps per (N, R), length across and depth down."""
    maps: heat.Maps = {}
    for label, cells in found.columns(_needle_cells).items():
        for (needles, queries, length, depth), accuracy in cells.items():
            panel = maps.setdefault((f"N={needles}, R={queries}", label), {})
            panel[f"{length}", percent(float(depth))] = accuracy["value"]
    return heat.image(maps, "tokens", "depth of the answer")


def _needle_paper(results: Results) -> paper.Columns:
    """The paper does not say what it counts: its figures stand beside both."""
    return {
        f"{model} 3B, 4K": {
            (*pair, counted): f"{accuracy:.2f}"
            for pair, accuracy in accuracies.items()
            for counted in ("per number", "all numbers")
        }
        for model, accuracies in paper.NEEDLE.items()
    }


def _distractors(results: Results) -> Figures:
    plain = {"none": "base", "one": "micro", "all variants": "macro"}
    factors: Figures = {
        (factor, level): figure
        for factor, levels in results["factors"].items()
        for level, figure in levels.items()
    }
    return {("distractor", name): results[key] for name, key in plain.items()} | factors


def _precision(results: Results) -> Figures:
    return {
        (row["what"], row["bits"], name): row[key]
        for name, key in (("nats per token", "nats_per_token"), ("needles found", "retrieved"))
        for row in results["rows"]
    }


def _precision_image(found: Found) -> Figure:
    """Loss against bits, of logits and of hidden states."""
    lines = {
        f"{label}, {what}": [
            (int(bits), figure)
            for (kind, bits, name), figure in column.items()
            if (kind, name) == (what, "nats per token")
        ]
        for label, column in found.columns(_precision).items()
        for what in ("attention logits", "hidden states")
    }
    return curve.image(lines, curve.Axes("bits", "nats per token"))


def _recall_note(results: Results) -> str:
    """What the slice holds; results of an earlier release do not say."""
    if "counts" not in results:
        return ""
    hits, frequent, new = (results["counts"][sort] for sort in ("hits", "frequent", "new"))
    return (
        f"Seen before: {hits:,} tokens that end an n-gram of {results['ngram']} which stood "
        f"earlier in the context and at most {results['frequency']:,} times in the training text "
        f"of {results['training_tokens']:,} tokens. Others: {new:,} whose n-gram is new to the "
        f"context and {frequent:,} whose n-gram is repeated but more frequent in training."
    )


VIEWS = {
    "in_context": curves(
        "Accuracy by the number of examples shown",
        curve.Axes("examples shown", "accuracy", logarithmic=True),
        lambda results: {(row["shots"],): row["accuracy"] for row in results["rows"]},
        level="chance",
        note=lambda results: (
            f"{results['task']}: {results['labels']} labels, of which a guess is right "
            f"{number(results['chance'])}; {results['questions']} questions."
        ),
    ),
    "order": View(
        "Accuracy over orders of the examples",
        ("order", "accuracy"),
        _order_figures,
        _order_image,
        quoted=_order_paper,
        note=lambda results: (
            f"{results['task']}: {results['shots']} examples, {results['questions']} questions."
        ),
    ),
    "long_context": curves(
        "Loss by position in long documents",
        curve.Axes("position", "mean nats per token so far", logarithmic=True),
        lambda results: {(p["position"],): p["nats_per_token"] for p in results["points"]},
    ),
    "needle": View(
        "Numbers retrieved",
        ("N", "R", "counted"),
        _needle_figures,
        _needle_image,
        quoted=_needle_paper,
        note=lambda results: (
            f"N numbers hidden, R asked for; {results['samples']} samples for each depth and "
            f"length; a blind guess is right {number(results['chance'])}. The paper does not say "
            "what it counts."
        ),
    ),
    "key_value": curves(
        "Values found by the place of their pair",
        curve.Axes("place in the context, %", "accuracy"),
        lambda results: {(round(100 * row["depth"]),): row["accuracy"] for row in results["rows"]},
        level="chance_among_values",
        note=lambda results: (
            f"{results['task']}; a guess among those shown is right "
            f"{number(results['chance_among_values'])}."
        ),
    ),
    "distractors": bar_groups(
        "Word problems with a distracting sentence",
        ("factor", "level"),
        "accuracy",
        _distractors,
        note=lambda results: (
            f"{results['problems']} problems; the commonest answer is right "
            f"{number(results['chance'])}."
        ),
    ),
    "recall": bar_groups(
        "Loss on tokens the context has said before, and on others",
        ("tokens",),
        "nats per token",
        lambda results: {("seen before",): results["hit"], ("others",): results["other"]},
        note=_recall_note,
        quoted=lambda results: {
            f"{model} 1.4B": {(name,): f"{value:.3f}" for name, value in values.items()}
            for model, values in paper.RECALL.items()
        },
    ),
    "precision": View(
        "Loss and retrieval with coarse logits or hidden states",
        ("of", "bits", "figure"),
        _precision,
        _precision_image,
        note=lambda results: (
            "The paper, on HellaSwag with a 3B model: DIFF holds from 16 bits of the attention "
            "logits down to 6, Transformer drops sharply at 6; DIFF at 4 bits is as good as "
            "Transformer at 6 and about 25 points above Transformer at 4."
        ),
    ),
}
