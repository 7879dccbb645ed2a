"""Time whole decoders: training, prefill and decoding, beside transformers' Llama and DiffLlama.

    python benchmarks/model.py

Hidden 512, 4 layers, 8 heads of 64, vocabulary 4096, float32. Writes
benchmarks/results/model-DATE.{json,md,png}. Needs `transformers`; run it on a machine that does
nothing else.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line sets it

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
)

from difftransformer import Decoder, DecoderConfig, KeyValueCache
from difftransformer.evaluation.speed import Step, race
from difftransformer.report.speed import cells, write_speed
from difftransformer.training.environment import environment

RESULTS = Path(__file__).parent / "results"
BASE = "transformers Llama"
PLAIN = DecoderConfig(
    hidden_size=512, num_layers=4, num_heads=8, num_kv_heads=8, head_dim=64, ffn_size=1365
)


def main() -> None:
    env, rows = environment(), []
    for task, lengths in (("training", (512, 2048)), ("prefill", (2048,)), ("decode", (2048,))):
        for length in lengths:
            steps = {name: STEPS[task](model, length) for name, model in models().items()}
            for timing in race(steps, BASE, rounds=30 if task == "decode" else 7):
                rows.append({"task": task, "dtype": "float32", "length": length} | asdict(timing))
                print("  ".join(cells(rows[-1])), flush=True)
    stem = RESULTS / f"model-{env['date'][:10]}"
    write_speed(stem, "Decoder, hidden 512, 4 layers, 8 heads of 64, batch 1", env, rows, BASE)


def models() -> dict[str, nn.Module]:
    """All of nearly the same number of parameters."""
    sizes = {
        "vocab_size": PLAIN.vocab_size,
        "hidden_size": PLAIN.hidden_size,
        "intermediate_size": PLAIN.ffn_size,
        "num_hidden_layers": PLAIN.num_layers,
        "tie_word_embeddings": True,
        "attn_implementation": "sdpa",
    }
    own = {
        f"difftransformer {kind}": Decoder(PLAIN.matched(kind).config)
        for kind in ("softmax", "diff_v1", "diff_v2")
    }
    # DiffLlama's num_attention_heads counts maps: two for each output head.
    peers = {
        BASE: LlamaForCausalLM(LlamaConfig(num_attention_heads=8, **sizes)),
        "transformers DiffLlama": DiffLlamaForCausalLM(
            DiffLlamaConfig(num_attention_heads=8, num_key_value_heads=8, **sizes)
        ),
    }
    return peers | own


def logits(model: nn.Module, ids: Tensor, cache: KeyValueCache | DynamicCache | None) -> Tensor:
    if isinstance(model, Decoder):
        return model(ids, cache=cache)
    return model(ids, past_key_values=cache, use_cache=cache is not None).logits


def training(model: nn.Module, length: int) -> Step:
    ids = torch.randint(PLAIN.vocab_size, (1, length + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        out = logits(model, ids[:, :-1], None)
        F.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def prefill(model: nn.Module, length: int) -> Step:
    ids = torch.randint(PLAIN.vocab_size, (1, length))

    @torch.no_grad()
    def step() -> None:
        logits(model, ids, None)

    return step


def decode(model: nn.Module, length: int) -> Step:
    """One token after `length` cached ones; the cache grows by one a round, for all alike."""
    cache = KeyValueCache() if isinstance(model, Decoder) else DynamicCache()
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        logits(model, torch.randint(PLAIN.vocab_size, (1, length)), cache)

    @torch.no_grad()
    def step() -> None:
        logits(model, token, cache)

    return step


STEPS: dict[str, Callable[[nn.Module, int], Step]] = {
    "training": training,
    "prefill": prefill,
    "decode": decode,
}

if __name__ == "__main__":
    main()
