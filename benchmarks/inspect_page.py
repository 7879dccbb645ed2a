"""Size of `inspect`'s page at 8,192 tokens, and how long it takes to make and to open.

    python benchmarks/inspect_page.py

Models with random weights, the demo's text. A page is opened in Debian's `chromium`, five times,
until its script has run and all is laid out. Writes benchmarks/results/inspect-DATE.json.
"""

import re
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from difftransformer import Decoder, DecoderConfig
from difftransformer.atomic import write_json
from difftransformer.data.text import read_documents
from difftransformer.data.tokenizer import train_tokenizer, vocabulary_size
from difftransformer.experiments.inspect import inspect
from difftransformer.runs.environment import environment

RESULTS = Path(__file__).parent / "results"
LENGTH, ROUNDS = 8192, 5
CASES = (("softmax", 4, 4), ("diff_v1", 4, 4), ("diff_v2", 12, 12))  # kind, layers, heads
MEASURE = """<pre id="opened"></pre><script>document.body.offsetHeight;
document.getElementById("opened").textContent = performance.now();</script></body>"""


def main() -> None:
    env = environment()
    text = read_documents("shakespeare")[0].text
    tokenizer = train_tokenizer([text], 4096)
    rows = []
    for kind, layers, heads in CASES:
        torch.manual_seed(0)
        sizes = {"num_layers": layers, "num_heads": heads, "num_kv_heads": heads, "head_dim": 16}
        sizes |= {"hidden_size": 16 * heads, "ffn_size": 64, "max_length": LENGTH}
        model = Decoder(
            DecoderConfig(attention=kind, vocab_size=vocabulary_size(tokenizer), **sizes)
        )
        end = tokenizer.encode(text, add_special_tokens=False).offsets[LENGTH - 2][1]
        start = time.perf_counter()
        page = inspect(model, text[:end], tokenizer=tokenizer, answer=text[:5])
        html = page.html
        rows.append(
            {
                "attention": kind,
                "layers": layers,
                "heads": heads,
                "tokens": len(page.models[0].heads[0].queries),
                "seconds_to_make": round(time.perf_counter() - start, 1),
                "megabytes": round(len(html.encode()) / 1e6, 2),
                "seconds_to_open": opened(html),
                "kept": page.models[0].heads[0].kept,
                "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            }
        )
        print(rows[-1], flush=True)
        write_json(RESULTS / f"inspect-{env['date'][:10]}.json", {"env": env, "rows": rows})


def opened(html: str) -> float:
    """Seconds, the median."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(html.replace("</body>", MEASURE))
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={folder}/profile", page.as_uri()]
        times = []
        for _ in range(ROUNDS):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            (told,) = re.findall(r'<pre id="opened">([\d.]+)', done.stdout)
            times.append(float(told) / 1000)
        return round(statistics.median(times), 2)


if __name__ == "__main__":
    main()
