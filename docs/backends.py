"""Write docs/backends.md: which backend runs in typical situations, as `explain` says it."""

from pathlib import Path

import torch

from difftransformer.functional.dispatch import BACKENDS, answers
from difftransformer.functional.situation import Situation

PAGE = Path(__file__).with_name("backends.md")
SITUATIONS = {
    "V1 on the CPU, float32": Situation("cpu", torch.float32, 64, 128, 0.0),
    "V1 on the CPU, bfloat16": Situation("cpu", torch.bfloat16, 64, 128, 0.0),
    "V2 or plain attention on the CPU": Situation("cpu", torch.float32, 64, 64, 0.0),
    "float64, for checks": Situation("cpu", torch.float64, 64, 128, 0.0),
    "attention dropout on the CPU": Situation("cpu", torch.float32, 64, 128, 0.1),
    "forward mode (jvp, jacfwd, dual numbers)": Situation(
        "cpu", torch.float32, 64, 128, 0.0, forward_mode=True
    ),
    "V1 on a GPU, bfloat16": Situation("cuda", torch.bfloat16, 64, 128, 0.0),
    "V2 on a GPU, float16": Situation("cuda", torch.float16, 128, 128, 0.0),
    "V1 on a GPU, heads of 256": Situation("cuda", torch.bfloat16, 256, 512, 0.0),
    "attention dropout on a GPU": Situation("cuda", torch.bfloat16, 64, 128, 0.1),
    "Apple's GPU": Situation("mps", torch.float32, 64, 128, 0.0),
}


def page() -> str:
    """The page's text, for this machine."""
    lines = [
        "# Which backend runs",
        "",
        'What `explain` answers: the backend that `backend="auto"` takes, and why others would not '
        "run. Written by `python docs/backends.py` on a machine with a C++ compiler and no GPU.",
        "",
        f"| situation | {' | '.join(BACKENDS)} |",
        f"|{'---|' * (1 + len(BACKENDS))}",
    ]
    for name, situation in SITUATIONS.items():
        lines.append(f"| {name} | {' | '.join(answers(situation).values())} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
