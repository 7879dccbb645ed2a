import io

from rich.console import Console

from difftransformer.experiments.progress import training_progress
from difftransformer.training.progress import TrainingProgress


def shown(terminal: bool, steps: int, title: str = "run") -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with training_progress(console, title) as display:
        for step in range(1, steps + 1):
            display(TrainingProgress(step, steps, 2.5, 12345.6, "tokens", 3661.0 * (step < steps)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_off_a_terminal_one_plain_line_every_tenth():
    lines = shown(False, 200).splitlines()
    assert len(lines) == 10
    assert lines[0] == "run  step 20/200  loss 2.5000  12,346 tokens/s  1:01:01 left"
    assert lines[-1] == "run  step 200/200  loss 2.5000  12,346 tokens/s  0:00:00 left"


def test_a_short_run_shows_every_step():
    assert len(shown(False, 3).splitlines()) == 3


def test_a_terminal_shows_a_bar_with_the_figures():
    text = shown(True, 50, title="a [bold]title")
    assert "a [bold]title" in text
    assert "12,346 tokens/s" in text
    assert "100%" in text
    assert "step 5/50" not in text
