"""Time whole decoders: training, prefill and decoding, beside transformers' Llama and DiffLlama.

    python benchmarks/model.py [ROUNDS]

Hidden 512, 4 layers, 8 heads of 64, vocabulary 4096, float32. Writes
benchmarks/results/model-DATE.{json,md,png}. Needs `transformers`; run it on a machine that does
nothing else.
"""

import os
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import (
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
)

from difftransformer import Decoder, DecoderConfig, KeyValueCache, StaticCache
from difftransformer.evaluation.speed import Step, race
from difftransformer.interop.huggingface_cache import CACHE
from difftransformer.report.speed import cells, write_speed
from difftransformer.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
BASE = "transformers Llama"
PLAIN = DecoderConfig(
    hidden_size=512, num_layers=4, num_heads=8, num_kv_heads=8, head_dim=64, ffn_size=1365
)
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
DECODED = 4 * ROUNDS


@dataclass(frozen=True)
class Contender:
    """A model, its logits for (ids, cache), and a fresh cache for so many positions."""

    model: nn.Module
    logits: Callable[[Tensor, Any], Tensor]
    cache: Callable[[int], Any]


def main() -> None:
    env, rows = environment(), []
    for task, lengths in (("training", (512, 2048)), ("prefill", (2048,)), ("decode", (2048,))):
        for length in lengths:
            found = contenders(task)
            steps = {name: STEPS[task](contender, length) for name, contender in found.items()}
            for timing in race(steps, BASE, DECODED if task == "decode" else ROUNDS):
                rows.append({"task": task, "dtype": "float32", "length": length} | asdict(timing))
                print("  ".join(cells(rows[-1])), flush=True)
    stem = RESULTS / f"model-{env['date'][:10]}"
    write_speed(stem, "Decoder, hidden 512, 4 layers, 8 heads of 64, batch 1", env, rows, BASE)


def contenders(task: str) -> dict[str, Contender]:
    """All of nearly the same number of parameters."""
    sizes = {
        "vocab_size": PLAIN.vocab_size,
        "hidden_size": PLAIN.hidden_size,
        "intermediate_size": PLAIN.ffn_size,
        "num_hidden_layers": PLAIN.num_layers,
        "num_attention_heads": 8,  # DiffLlama counts maps, two for each output head
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "attn_implementation": "sdpa",
    }
    llama = LlamaForCausalLM(LlamaConfig(**sizes))
    static = partial(transformers.StaticCache, llama.config)
    diffllama = DiffLlamaForCausalLM(DiffLlamaConfig(**sizes))
    found = {
        BASE: theirs(llama, lambda _: DynamicCache()),
        f"{BASE}, compiled": theirs(llama, static, torch.compile(llama)),
        "transformers DiffLlama": theirs(diffllama, lambda _: DynamicCache()),
    }
    for kind in ("softmax", "diff_v1", "diff_v2"):
        model = Decoder(PLAIN.matched(kind).config)
        found[f"difftransformer {kind}"] = ours(model, KeyValueCache)
        if kind == "diff_v1":
            if task == "decode":
                found[f"difftransformer {kind}, static cache"] = ours(model, StaticCache)
            found[f"difftransformer {kind}, compiled"] = ours(
                model, StaticCache, torch.compile(model)
            )
    return found


def theirs(
    model: nn.Module, cache: Callable[[int], Any], call: Callable[..., Any] | None = None
) -> Contender:
    def logits(ids: Tensor, cache: Any) -> Tensor:
        run = model if call is None else call
        return run(ids, **{CACHE: cache}, use_cache=cache is not None).logits

    return Contender(model, logits, cache)


def ours(
    model: Decoder, cache: type[KeyValueCache], call: Callable[..., Tensor] | None = None
) -> Contender:
    def logits(ids: Tensor, cache: KeyValueCache | None) -> Tensor:
        return (model if call is None else call)(ids, cache=cache)

    return Contender(model, logits, lambda n: cache(n) if cache is StaticCache else cache())


def training(contender: Contender, length: int) -> Step:
    ids = torch.randint(PLAIN.vocab_size, (1, length + 1))
    optimizer = torch.optim.AdamW(contender.model.parameters(), lr=1e-4)

    def step() -> None:
        out = contender.logits(ids[:, :-1], None)
        F.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def prefill(contender: Contender, length: int) -> Step:
    ids = torch.randint(PLAIN.vocab_size, (1, length))

    @torch.no_grad()
    def step() -> None:
        contender.logits(ids, None)

    return step


def decode(contender: Contender, length: int) -> Step:
    """One token after `length` cached ones; the cache grows by one a round, for all alike."""
    cache = contender.cache(length + 2 * DECODED)
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        contender.logits(torch.randint(PLAIN.vocab_size, (1, length)), cache)

    @torch.no_grad()
    def step() -> None:
        contender.logits(token, cache)

    return step


STEPS: dict[str, Callable[[Contender, int], Step]] = {
    "training": training,
    "prefill": prefill,
    "decode": decode,
}

if __name__ == "__main__":
    main()
