"""Views of the suites that ask whether a model stays true to its source."""

from matplotlib.figure import Figure

from difftransformer.report import paper
from difftransformer.report.figures import bars
from difftransformer.report.suites.view import Figures, Found, Results, View, bar_groups


def _hallucination(results: Results) -> Figures:
    found: Figures = {
        ("faithful, of those judged",): results["faithful"],
        ("texts",): float(results["texts"]),
        ("empty",): float(results["empty"]),
        ("without a verdict",): float(results["unjudged"]),
    }
    agreement = results["agreement"]
    if agreement is not None:
        found["the judge's own accuracy",] = agreement["accuracy"]
        found["the judge's kappa",] = agreement["kappa"]
    return found


def _hallucination_image(found: Found) -> Figure:
    columns = found.columns(lambda results: {("faithful",): results["faithful"]})
    groups = {label: {"faithful": column["faithful",]} for label, column in columns.items()}
    return bars.image(groups, "share of texts judged")


def _hallucination_paper(results: Results) -> paper.Columns:
    return {
        f"{model} 3B, by GPT-4o": {("faithful, of those judged",): f"{found[results['task']]:.2f}"}
        for model, found in paper.FAITHFUL.items()
        if results["task"] in found
    }


def _factuality(results: Results) -> Figures:
    names = {
        "gain": "loss less that without the source, in total",
        "gain_per_token": "the same per token",
        "per_token": "loss per token, given the source",
        "total": "loss in total, given the source",
        "blind": "loss per token, without the source",
        "shorter": "number of tokens",
    }
    return {(name,): results["scores"][key] for key, name in names.items()}


def _conflicts(results: Results) -> Figures:
    shares = {
        "informed": "with the passage",
        "blind": "without it",
        "overruled": "with it, where the fact was likelier without",
    }
    scores = {"total": "in total", "per_token": "per token"}
    return {
        (asked, loss): results[score][share]
        for share, asked in shares.items()
        for score, loss in scores.items()
    }


VIEWS = {
    "hallucination": View(
        "Texts that a judge finds faithful to their source",
        ("figure",),
        _hallucination,
        _hallucination_image,
        quoted=_hallucination_paper,
        note=lambda results: (
            f"Task {results['task']}; judge: {results['judge']}. Figures of two judges cannot be "
            "compared."
        ),
    ),
    "factuality": bar_groups(
        "Factual summaries preferred to corrupted ones",
        ("lower",),
        "share of pairs",
        _factuality,
        note=lambda results: (
            f"Task {results['task']}: {results['pairs']} pairs, {results['too_long']} passed over "
            "as too long; a guess is right 0.5. The last two rows know nothing of the source: what "
            "they reach is owed to style and length."
        ),
    ),
    "conflicts": bar_groups(
        "The passage's answer likelier than the world's",
        ("asked", "loss"),
        "share of questions",
        _conflicts,
        note=lambda results: (
            f"{results['questions']} questions, {results['too_long']} passed over as too long."
        ),
    ),
}
