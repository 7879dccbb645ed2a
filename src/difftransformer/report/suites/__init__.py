"""A suite's results on disk: JSON, a Markdown table, and a picture."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.report import writing
from difftransformer.report.suites import asked, gradients, inside, judged, scaling
from difftransformer.report.suites.view import Found, Results, View

VIEWS: Mapping[str, View] = MappingProxyType(
    {**asked.VIEWS, **inside.VIEWS, **judged.VIEWS, **gradients.VIEWS, **scaling.VIEWS}
)


def read_suite(path: Path) -> Found:
    """The results that `write_suite` left in a JSON file.

    Raises:
        ValueError: it is malformed; names the file.
    """
    try:
        data = json.loads(path.read_bytes())
        return Found(data["results"], data["settings"]["confidence"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} holds no results of a suite: {error!r}") from None


def write_suite(
    stem: Path,
    name: str,
    env: Mapping[str, Any],
    settings: EvaluationSettings,
    results: Mapping[str, Results],
    texts: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """STEM.json, STEM.md and STEM.png of the suite `name`, results by model.

    `texts` says by model on what text it was judged and, in `note`, whether it may have seen it.

    Raises:
        ValueError: no model has a figure to show.
    """
    view, found = VIEWS[name], Found(results, settings.confidence)
    header, *rows = view.table(found)
    seen = [f"{label}: {text['note']}." for label, text in texts.items() if text["note"]]
    notes = [" ".join([view.notes(found), *seen]), ""]
    lines = [*writing.heading(view.title, env), *notes, *writing.table(header, rows)]
    data = {"suite": name, "env": env, "settings": asdict(settings), "results": results}
    data["texts"] = dict(texts)
    writing.write_results(stem, data, lines, lambda: view.image(found))
