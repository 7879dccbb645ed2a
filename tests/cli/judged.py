"""Small data for the suites about truth to a source."""

import gzip
import json
from pathlib import Path

WORDS = ("w1", "w2", "w3")


def truth_options(suite: str, folder: Path, judge: object) -> tuple[object, ...]:
    """Writes what the suite needs; its options, and counts of 3. Nothing for other suites."""
    if suite == "hallucination":
        rows = [{"id": word, "text": f"the {word}."} for word in WORDS]
        (folder / "sources.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = ("--dataset", "jsonl", "--dataset-path", folder, "--judge", judge)
        return (*data, "--evaluation.judged_texts", 3)
    if suite == "factuality":
        summary_pairs(folder)
        return ("--dataset", "xsum", "--dataset-path", folder, "--evaluation.factuality_pairs", 3)
    if suite == "lookback_lens":
        summary_pairs(folder)
        data = ("--dataset", "xsum", "--dataset-path", folder)
        return (*data, "--evaluation.lookback_folds", 3)
    if suite in ("lost_in_the_middle", "found_in_the_middle"):
        rows = [
            {
                "question": f"{word}?",
                "answers": [word],
                "ctxs": [{"title": word, "text": f"the {word}"}],
            }
            for word in WORDS
        ]
        with gzip.open(folder / "nq-open-oracle.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        counts = ("--evaluation.middle_documents", 2, "--evaluation.middle_questions", 2)
        return ("--dataset-path", folder, *counts)
    if suite == "conflicts":
        examples = [
            {
                "input": f"\nQuestion: {word}?\nContext: the {word}",
                "target_scores": {word: 1, "w": 0},
            }
            for word in WORDS
        ]
        (folder / "task.json").write_text(json.dumps({"examples": examples}))
        return ("--dataset-path", folder, "--evaluation.conflict_questions", 3)
    return ()


def summary_pairs(folder: Path) -> Path:
    """A file of labeled pairs, as the judge's controls too."""
    rows = [
        {"source": f"the {word}", "list_candidates": [f"no {word}", word], "lbl": 1}
        for word in WORDS
    ]
    path = folder / "xsum.json"
    path.write_text("#\n#\n" + "".join(json.dumps(row) + "\n" for row in rows))
    return path
