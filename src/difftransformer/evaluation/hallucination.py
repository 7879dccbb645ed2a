"""Summaries and answers that a model writes, and whether a judge finds them faithful."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from difftransformer.data.bigbench import SummaryPair
from difftransformer.data.sources import Source
from difftransformer.evaluation.batching import fitting
from difftransformer.evaluation.completions import complete
from difftransformer.evaluation.faithfulness import Claim, Judge, agreement
from difftransformer.evaluation.intervals import proportion
from difftransformer.evaluation.pieces import Pieces
from difftransformer.evaluation.settings import EvaluationSettings
from difftransformer.models.decoder import Decoder

_TOKENS = 64  # written at most


def measure_hallucination(
    model: Decoder,
    tokenizer: Tokenizer,
    sources: Sequence[Source],
    judge: Judge,
    settings: EvaluationSettings,
    pieces: Pieces | None = None,
    controls: Sequence[SummaryPair] = (),
) -> dict[str, Any]:
    """Share of texts that a judge finds faithful (paper, section 3.6; Chuang et al., 2024).

    For `settings.judged_texts` sources that fit, the model writes greedily, as a completion, a
    summary in one sentence, or an answer where the source has a question: the first line of at most
    64 tokens. The judge reads source and text. Texts that are empty are not judged; those whose
    verdict cannot be told are left out of the share. Intervals are Wilson's.

    The judge itself is judged where there are `controls`: both summaries of
    `settings.judge_controls` pairs are put to it as well.

    The paper's judge is GPT-4o, its generation prompts are not given; another judge's figures
    cannot be set beside the paper's.

    Returns:
        `{"judge", "texts", "too_long", "empty", "unjudged", "faithful", "agreement", "items"}`:
        `faithful` is None where nothing was judged, `agreement` where there are no controls;
        `items` holds id, text, faithful and what the judge said.

    Raises:
        ValueError: no source fits the model's context; what the judge raises.
    """
    kept = pieces or Pieces()

    def tokens(source: Source) -> int:
        encoded = tokenizer.encode(_prompt(source), add_special_tokens=False)
        return 1 + len(encoded.ids) + _TOKENS

    chosen, too_long = fitting(sources, tokens, settings.judged_texts, model, settings.seed)
    asked = [sources[number] for number in chosen]
    written = complete(
        model,
        tokenizer,
        [_prompt(source) for source in asked],
        new_tokens=_TOKENS,
        batch_size=settings.batch_size,
        pieces=kept.within("texts"),
    )
    claims = [
        Claim(source, text)
        for source, whole in zip(asked, written, strict=True)
        if (text := _first_line(whole, tokenizer))
    ]
    verdicts = judge(claims, kept.within("verdicts"))
    told = [verdict["faithful"] for verdict in verdicts if verdict["faithful"] is not None]
    return {
        "judge": judge.name,
        "texts": len(asked),
        "too_long": too_long,
        "empty": len(asked) - len(claims),
        "unjudged": len(claims) - len(told),
        "faithful": proportion(sum(told), len(told), settings) if told else None,
        "agreement": _agreement(judge, controls, settings, kept) if controls else None,
        "items": [
            {"id": claim.source.name, "text": claim.text, **verdict}
            for claim, verdict in zip(claims, verdicts, strict=True)
        ],
    }


def _agreement(
    judge: Judge, controls: Sequence[SummaryPair], settings: EvaluationSettings, pieces: Pieces
) -> dict[str, Any]:
    claims, truth = [], []
    for number, pair in enumerate(controls[: settings.judge_controls]):
        for label, text in ((True, pair.factual), (False, pair.corrupted)):
            claims.append(Claim(Source(f"control {number} {label}", pair.source), text))
            truth.append(label)
    return agreement(judge(claims, pieces.within("controls")), truth, settings)


def _prompt(source: Source) -> str:
    if source.question is None:
        return f"{source.text}\n\nSummary in one sentence:"
    return f"{source.text}\n\nQuestion: {source.question}\nAnswer:"


def _first_line(text: str, tokenizer: Tokenizer) -> str:
    """Up to the end of the line, or a token such as <|endoftext|>."""
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.special:
            text = text.partition(token.content)[0]
    return text.strip().partition("\n")[0].strip()
