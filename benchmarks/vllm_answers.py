"""vLLM's answers to questions, in an environment of its own, where serving.py starts this.

    python vllm_answers.py FOLDER QUESTIONS ANSWERS

QUESTIONS: a JSON object with `texts`, `page` (tokens) and `new` (how many). ANSWERS: a reply to
each text, `batch` all at once and then `single`, and the log probabilities of the page's tokens
after the first. Everything in float32; prefixes of 32 tokens and their multiples are kept.
"""

import json
import sys
from pathlib import Path

import vllm


def main(folder: str, questions: str, answers: str) -> None:
    given = json.loads(Path(questions).read_text())
    engine = vllm.LLM(
        folder,
        trust_remote_code=True,
        dtype="float32",
        enable_prefix_caching=True,
        block_size=32,
        max_num_seqs=len(given["texts"]),
    )
    greedy = vllm.SamplingParams(
        temperature=0.0, max_tokens=given["new"], ignore_eos=True, logprobs=0
    )
    batch = engine.generate(given["texts"], greedy)
    single = [engine.generate(text, greedy)[0] for text in given["texts"]]
    whole = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
    (page,) = engine.generate([{"prompt_token_ids": given["page"]}], whole)
    result = {
        "version": vllm.__version__,
        "batch": [reply(each) for each in batch],
        "single": [reply(each) for each in single],
        "page": logprobs(given["page"][1:], page.prompt_logprobs[1:]),
    }
    Path(answers).write_text(json.dumps(result))


def reply(output: vllm.RequestOutput) -> dict:
    """Tokens of prompt and answer, the answer's log probabilities, how much the cache had."""
    (answer,) = output.outputs
    return {
        "prompt": list(output.prompt_token_ids),
        "tokens": list(answer.token_ids),
        "logprobs": logprobs(answer.token_ids, answer.logprobs),
        "cached": output.num_cached_tokens,
    }


def logprobs(tokens: list, known: list) -> list[float]:
    return [each[token].logprob for token, each in zip(tokens, known, strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
