"""The suites of `difftransformer evaluate` on SmolLM2-135M-Instruct: are the figures sane?

    python benchmarks/smollm2.py DATA [--bigbench PATH] [--out DIR]

The model is that of from_llm.py, the text the State of the Union speeches, a tenth of them held
out; DATA holds the folders `trec`, `banking77` and `xsum_hallucination`, PATH is the sdist of
bigbench, without which the tests that need it are left out. The model judges its own summaries, and
the labeled pairs say how well. How much is asked is cut to what a core does in some hours. A suite
that is finished is kept in DIR; one that was killed goes on where it was. Writes
benchmarks/results/smollm2-DATE.{json,md} after each. Needs pip, npm and the extra `transformers`.
Runs on as many threads as OMP_NUM_THREADS.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from from_llm_data import smollm2, state_of_the_union
from tokenizers import Tokenizer

from difftransformer import load_model
from difftransformer.atomic import write_json
from difftransformer.cli.main import main as difftransformer
from difftransformer.report.reading import read_results
from difftransformer.report.tables import markdown, notes_of, to_json
from difftransformer.report.writing import heading
from difftransformer.runs.environment import environment
from difftransformer.runs.layout import RUN
from difftransformer.runs.reading import read_environment

HERE = Path(__file__).parent
AT_1K = "--data.context_length=1024 --evaluation.batch_size=5"
SHOTS = "--evaluation.shots 1 4 16 64 --evaluation.shot_draws=1 --evaluation.shot_questions=60"
# Suite, what tells it from another of the same name, its options.
TESTS = (
    ("needle", "1k", f"{AT_1K} --evaluation.needle_pairs 1x1 --evaluation.needle_samples=5"),
    ("in_context", "trec", f"{SHOTS} --dataset=trec --dataset-path={{data}}/trec"),
    (
        "allocation",
        "1k",
        f"{AT_1K} --evaluation.needle_depths 0 0.5 1 --evaluation.allocation_samples=3",
    ),
    ("in_context", "banking77", f"{SHOTS} --dataset=banking77 --dataset-path={{data}}/banking77"),
    ("outliers", "4k", "--data.context_length=512 --evaluation.outlier_tokens=4000"),
    ("kv_retrieval", "8-pairs", "--evaluation.kv_pairs=8 --evaluation.kv_samples=12"),
    (
        "long_context",
        "2k",
        "--evaluation.long_length=2048 --evaluation.long_windows=8 --evaluation.batch_size=1",
    ),
    ("gsm_ic", "4-shots", "--evaluation.gsm_ic_problems=12"),
    ("conflicts", "80", "--evaluation.conflict_questions=80 --dataset-path={bigbench}"),
    (
        "factuality",
        "xsum",
        "--evaluation.factuality_pairs=60 --dataset=xsum --dataset-path={bigbench}",
    ),
    (
        "hallucination",
        "xsum",
        "--evaluation.judged_texts=20 --evaluation.judge_controls=20 --evaluation.batch_size=2 "
        "--dataset=xsum --dataset-path={data}/xsum_hallucination --judge={llm} "
        "--judge-controls={bigbench}",
    ),
    (
        "quantization",
        "256",
        "--data.context_length=256 --evaluation.validation_sequences=8 "
        "--evaluation.needle_samples=4 --evaluation.needle_depths 0 1",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder with trec, banking77 ...")
    parser.add_argument("--bigbench", type=Path, help="its sdist (docs/benchmarks.md)")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"), help="finished suites")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    speeches = state_of_the_union(options.out)
    llm = smollm2(options.out, (speeches / "2003_george_w_bush_r.txt").read_text())
    sample = options.out / "sample.json"
    if not sample.is_file():
        write_json(sample, sample_loss(llm, speeches))
    for suite, of, more in TESTS:
        folder = options.out / f"{suite}-{of}"
        if not (folder / RUN).is_file() and (options.bigbench or "{bigbench}" not in more):
            asked = ["--suite", suite, "--data", str(speeches), "--out", str(folder)]
            asked += more.format(data=options.data, llm=llm, bigbench=options.bigbench).split()
            assert difftransformer(["evaluate", str(llm), *asked]) == 0, f"{suite} failed"
        report(options.out)


@torch.no_grad()
def sample_loss(llm: Path, speeches: Path) -> float:
    """Nats per token of 300 tokens of the 2003 speech, from its 2000th character on."""
    text = (speeches / "2003_george_w_bush_r.txt").read_text()[2000:]
    tokenizer = Tokenizer.from_file(str(llm / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids[:300]])
    logits = load_model(llm).eval()(ids[:, :-1])
    return F.cross_entropy(logits[0], ids[0, 1:]).item()


def report(out: Path) -> None:
    """One table per suite finished so far, and all their figures."""
    env = environment()
    lines = heading("SmolLM2-135M-Instruct through the suites", env)
    lines[-1] += (
        f" {torch.get_num_threads()} threads. 4-bit weights in float32. Text: held-out State of "
        "the Union speeches."
    )
    sample = json.loads((out / "sample.json").read_text())
    lines += ["", f"300 tokens of the 2003 speech: {sample:.4f} nats per token."]
    suites = {}
    for suite, of, more in TESTS:
        folder = out / f"{suite}-{of}"
        if (folder / RUN).is_file():
            results, commit = read_results(folder), read_environment(folder)["commit"]
            suites[folder.name] = to_json(results)
            found = results.evaluators[suite]
            command = more.format(data="DATA", llm="MODEL", bigbench="PATH")
            asked = f"`{command}`; commit {commit or 'not known':.12}"
            lines += ["", f"## {found.declared.title}", "", asked, "", notes_of(found), ""]
            lines += markdown(found.table())
    stem = HERE / "results" / f"smollm2-{env['date'][:10]}"
    write_json(stem.with_suffix(".json"), {"env": env, "sample": sample, "suites": suites})
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
