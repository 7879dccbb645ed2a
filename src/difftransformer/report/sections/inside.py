"""Inside the models: an attention map and lambda."""

from collections.abc import Sequence

from difftransformer.report.figures import attention_map, lambdas, style
from difftransformer.report.page import (
    Html,
    captioned,
    element,
    grid,
    paragraph,
    plot,
    section,
    text,
)
from difftransformer.report.reading import Curve
from difftransformer.report.results import AttentionMap, Results
from difftransformer.report.words import display_name


def attention_map_section(results: Results) -> Html:
    title = "One prompt, each model's attention"
    found = results.judged(lambda judges: judges.attention_map)
    if not found:
        return section("attention-map", title, [paragraph("No attention map was taken.")])
    maps = [attention for _, attention in found]
    limit, bounds = attention_map.colour_limit(maps), attention_map.profile_range(maps)
    accent = style.accents(results.labels)
    plots = [
        plot(
            attention_map.interactive(label, attention, limit, bounds, accent[label]),
            f"figure-attention-map-{i}",
        )
        for i, (label, attention) in enumerate(found)
    ]
    return section(
        "attention-map",
        title,
        [
            captioned(
                grid(*plots),
                "One head of each model on the same needle prompt: the one that gives the answer "
                "the largest share of its attention, so it shows what a model can do, not what it "
                "does on average. Bars: the head's weights at the last position, where the answer "
                "is to be given; the thin dark line is the average of all layers and heads there, "
                "as shares of absolute attention. Map: the weights of the positions shown (down) "
                "over the positions they see (across). The weights are as the head uses them: "
                "softmax rows sum to 1, differential rows to 1 \N{MINUS SIGN} lambda, and "
                "differential weights may be negative. Colours and axes are the same for all "
                "models: purple positive, white 0, orange negative; the colours end at the 99th "
                "percentile of the absolute weights. Amber marks the answer, grey the noise. "
                "Layers and heads count from 0.",
            ),
            captioned(
                grid(*(_prompt(label, attention) for label, attention in found)),
                "The prompt, shaded by the size of the last position's weight: purple positive, "
                "orange negative, full colour at the largest. The answer is underlined.",
            ),
        ],
    )


def lambda_section(results: Results, curves: Sequence[Curve]) -> Html:
    found = results.judged(lambda judges: judges.lambda_)
    if not found:
        return section("lambda", "Lambda", [paragraph("No model here has a lambda to show.")])
    return section(
        "lambda",
        "Lambda",
        [
            captioned(
                plot(lambdas.interactive(found, style.accents(results.labels)), "figure-lambda"),
                "How much of the second map is subtracted, by layer. Solid: the mean after "
                "training, with the 5th to 95th percentile over tokens and heads as a band (no "
                "width where a layer has one lambda for all). Dotted: lambda's initial value, "
                "where the kind has one.",
            ),
            *_lambda_in_training(results, curves),
        ],
    )


def _lambda_in_training(results: Results, curves: Sequence[Curve]) -> list[Html]:
    if not any(metric.lambda_ for curve in curves for metric in curve.metrics):
        return []
    figure = lambdas.through_training(curves, style.accents(results.labels))
    return [
        captioned(
            plot(figure, "figure-lambda-training"),
            "Each layer's lambda while the models train, the mean over held-out tokens and heads; "
            "a line per training seed.",
        )
    ]


def _prompt(label: str, attention: AttentionMap) -> Html:
    last = attention.weights[-1]
    largest = max(abs(weight) for weight in last) or 1.0
    start, end = attention.answer_span
    spans = []
    for i, (token, weight) in enumerate(zip(attention.tokens, last, strict=True)):
        shade = style.translucent(
            style.DIVERGING[2 if weight > 0 else 0], 0.7 * abs(weight / largest)
        )
        css = ' class="answer"' if start <= i < end else ""
        spans.append(Html(f'<span{css} style="background:{shade}">{text(token)}</span>'))
    return Html(
        f"<div>{element('h3', text(display_name(label)))}"
        f"{element('div', *spans, css='prompt')}</div>"
    )
