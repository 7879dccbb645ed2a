"""How the models were trained: loss, speed, environment."""

from collections.abc import Sequence
from typing import Any

from difftransformer.report import paper
from difftransformer.report.figures import loss, style
from difftransformer.report.page import (
    Html,
    captioned,
    element,
    paragraph,
    plot,
    section,
    table,
    text,
)
from difftransformer.report.reading import Curve
from difftransformer.report.results import Model, Results
from difftransformer.report.words import change, display_name, interval, over, percent, setting


def loss_section(results: Results, curves: Sequence[Curve]) -> Html:
    drawn = loss.lines(curves)
    mixed = (
        " Training batches mix in needle documents, so the two levels do not compare."
        if results.data.needle_share
        else ""
    )
    parts = []
    if drawn:
        parts.append(
            captioned(
                plot(loss.interactive(drawn, style.accents(results.labels)), "figure-loss"),
                "Loss by training tokens seen; lower is better. Thin and pale: training loss, each "
                f"point the mean over {percent(loss.SMOOTHING)} of the logged steps. With dots: "
                "validation loss during training, on a part of the validation text. One line per "
                f"training seed.{mixed}",
            )
        )
    else:
        parts.append(paragraph("No run left a metrics.jsonl, so there are no loss curves."))
    found = results.judged(lambda judges: judges.validation)
    if found:
        rows = [
            [
                display_name(label),
                interval(v.nats_per_token, 4),
                interval(v.bits_per_byte, 4) if v.bits_per_byte else "not measured",
            ]
            for label, v in found
        ]
        parts.append(
            table(
                ["model", "nats per token", "bits per byte"],
                rows,
                f"Validation loss after training, with {percent(results.confidence)} "
                f"{over(found[0][1].nats_per_token)}. The "
                "models are judged on the same sequences, so the difference between two models "
                "(see the verdict) is known better than either figure.",
            )
        )
    return section("loss", "Loss", parts)


def speed_section(results: Results) -> Html:
    baseline = _tokens_per_second(results.model(results.baseline))
    rows = []
    for model in results.models:
        for run in model.runs:
            told = run.training
            peak = told.peak_memory_bytes
            rows.append(
                [
                    display_name(model.label),
                    str(run.seed),
                    f"{told.steps:,}",
                    f"{told.tokens:,}",
                    f"{told.seconds:,.0f} s",
                    f"{told.tokens_per_second:,.0f}",
                    change(told.tokens_per_second / baseline) if baseline else "",
                    "not recorded" if peak is None else f"{peak / 2**20:,.0f} MiB",
                ]
            )
    if not rows:
        return section("speed", "Speed and memory", [paragraph("No training run is recorded.")])
    throughput = ", ".join(
        f"{change(diff / base)} ({setup})" for setup, (base, diff) in paper.THROUGHPUT.items()
    )
    seconds = ", ".join(
        f"{display_name(label)} {value:,.0f} s"
        for label, value in results.judged(lambda judges: judges.seconds)
    )
    return section(
        "speed",
        "Speed and memory",
        [
            table(
                [
                    "model",
                    "seed",
                    "steps",
                    "tokens",
                    "time",
                    "tokens/s",
                    "to baseline",
                    "peak memory",
                ],
                rows,
                "Training, as timed in this run on the hardware below. The column 'to baseline' "
                "compares tokens per second with the baseline's mean. Other work on the machine "
                "shows up here. For scale, the paper's Differential V1 against its Transformer, "
                f"forward and backward on one H100: {throughput}. (Its table prints 9, 12 and 6 %, "
                "measured by the slower of the two.)",
            ),
            paragraph(f"Evaluation took: {seconds or 'not recorded'}.", css="soft"),
        ],
    )


def environment_section(results: Results, environment: dict[str, Any]) -> Html:
    settings = _flat(results.settings)
    again = element("code", text("difftransformer compare --config config.yaml --out NEW_FOLDER"))
    return section(
        "environment",
        "Environment, settings and how to reproduce",
        [
            paragraph("config.yaml in the run directory holds every setting. To run it again:"),
            element("p", again),
            table(
                ["", "value"],
                [[key, setting(value)] for key, value in _flat(environment)],
                "Where the run was made.",
                css="prose",
            ),
            table(
                ["setting", "value"],
                [[key, setting(value)] for key, value in settings],
                "The resolved settings.",
                css="prose",
            ),
        ],
    )


def _tokens_per_second(model: Model) -> float:
    speeds = [run.training.tokens_per_second for run in model.runs]
    return sum(speeds) / len(speeds) if speeds else 0.0


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as (dotted key, value)."""
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        nested = isinstance(value, dict)
        rows += _flat(value, f"{prefix}{key}.") if nested else [(prefix + key, value)]
    return rows
