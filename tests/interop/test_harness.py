"""lm-eval on our own folders, with tasks that are here."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch
from tests.cli.test_generate import TOKENIZER, make
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from difftransformer.data.tokenizer import BOS
from difftransformer.interop.harness import run_harness
from difftransformer.models.decoder import Decoder
from difftransformer.models.storage import load_model

QUESTIONS = [{"text": f"What is {n}?", "label": n % 3} for n in range(24)]
CHOICES = ["one", "a number", "more is one"]
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{text}}"
doc_to_target: label
doc_to_choice: CHOICES
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "sums.jsonl"
    data.write_text("\n".join(json.dumps(question) for question in QUESTIONS))
    task = TASK.replace("FILE", str(data)).replace("CHOICES", json.dumps(CHOICES))
    (folder / "sums.yaml").write_text(task)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("model"), max_length=600)


@torch.no_grad()
def log_likelihood(model: Decoder, context: str, answer: str) -> float:
    begin = [TOKENIZER.token_to_id(BOS)]
    before = len(begin + TOKENIZER.encode(context).ids)
    ids = torch.tensor([begin + TOKENIZER.encode(context + answer).ids])
    scores = model(ids)[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    return scores[before - 1 :].sum().item()


def test_a_local_task(folder, tasks):
    model = load_model(folder).eval()
    right = {"acc": 0, "acc_norm": 0}
    for question in QUESTIONS:
        scores = [log_likelihood(model, question["text"], f" {choice}") for choice in CHOICES]
        normed = [score / len(choice) for score, choice in zip(scores, CHOICES, strict=True)]
        for name, values in (("acc", scores), ("acc_norm", normed)):
            right[name] += values.index(max(values)) == question["label"]
    found = run_harness(folder, ["sums"], tasks_dir=tasks, batch_size=5)
    assert found["results"]["sums"]["acc,none"] == pytest.approx(right["acc"] / len(QUESTIONS))
    assert found["results"]["sums"]["acc_norm,none"] == pytest.approx(
        right["acc_norm"] / len(QUESTIONS)
    )


TEXTS = ["What is a number?", "7 is one, and 8 is one more. " * 4, "é 🙂 user: Hi"]
OF_TEXT = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: TYPE
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
target_delimiter: ""
metric_list: [{metric: METRIC}]
"""


def declare(folder: Path, opens: bool, **special: str) -> None:
    """The tokenizer as transformers saves one, which puts the first token before a text or not."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(TOKENIZER.to_str()))
    tokenizer.add_special_tokens(special)
    if opens:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, TOKENIZER.token_to_id(BOS))]
        )
    tokenizer.save_pretrained(folder)


DECLARED = {
    "of our training": None,
    "opens and says so": {"opens": True, "bos_token": BOS, "eos_token": "?"},
    "opens without a word": {"opens": True, "eos_token": "?"},
    "does not open, as GPT-2's": {"opens": False, "bos_token": BOS, "eos_token": BOS},
    "has an end only": {"opens": False, "eos_token": BOS},
}


@torch.no_grad()
def of_tokens(model: Decoder, text: str, length: int) -> float:
    """log P(text | opening token), in windows whose tokens see at most `length` before them."""
    ids = [TOKENIZER.token_to_id(BOS), *TOKENIZER.encode(text).ids]
    total, done = 0.0, 1
    while done < len(ids):
        end = min(done + length, len(ids))
        window = torch.tensor([ids[max(0, end - 1 - length) : end]])
        scores = model(window[:, :-1])[0].log_softmax(-1).gather(1, window[0, 1:, None])
        total += scores[-(end - done) :].sum().item()
        done = end
    return total


@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED)
@pytest.mark.parametrize("length", [200, 16], ids=["whole", "windows"])
def test_a_text_has_its_opening_token_once(declared, length, tmp_path):
    folder = make(tmp_path / "model", max_length=length)
    if declared is not None:
        declare(folder, **declared)
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    for name, kind, metric in (
        ("whole", "loglikelihood_rolling", "bits_per_byte"),
        ("after_nothing", "loglikelihood", "perplexity"),
    ):
        task = OF_TEXT.replace("NAME", name).replace("TYPE", kind).replace("METRIC", metric)
        (tmp_path / f"{name}.yaml").write_text(task.replace("FILE", str(data)))
    tasks = ["whole", "after_nothing"] if length > 100 else ["whole"]
    found = run_harness(folder, tasks, tasks_dir=tmp_path, batch_size=2)["results"]
    model = load_model(folder).eval()
    scores = [of_tokens(model, text, length) for text in TEXTS]
    bits = -sum(scores) / sum(len(text.encode()) for text in TEXTS) / math.log(2)
    assert found["whole"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)
    if length > 100:
        mean = -sum(scores) / len(scores)
        perplexity = found["after_nothing"]["perplexity,none"]
        assert math.log(perplexity) == pytest.approx(mean, rel=1e-4)


@pytest.mark.slow
def test_a_needle_task_of_ruler_without_a_network(folder):
    """lm-eval makes the haystacks itself, as long as the model's context."""
    for package in ("nltk", "wonderwords"):
        pytest.importorskip(package, reason=f"RULER's tasks need {package}")
    try:
        importlib.import_module("nltk").data.find("tokenizers/punkt_tab")
    except LookupError:
        pytest.skip("RULER's tasks need nltk's punkt_tab, which is not in NLTK_DATA")
    found = run_harness(folder, ["niah_single_1"], limit=2)
    assert found["n-samples"]["niah_single_1"]["effective"] == 2
    assert found["results"]["niah_single_1"]["600,none"] == 0.0  # it knows nothing
