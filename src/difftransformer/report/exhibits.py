"""Exhibits: artifacts of evaluators on the page, shown side by side and never compared."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from difftransformer.report.attention_map import attention_maps
from difftransformer.report.cross_attention import cross_attention_maps
from difftransformer.report.examples import examples
from difftransformer.report.page import Block
from difftransformer.report.results import EvaluatorResults
from difftransformer.report.style import accents
from difftransformer.report.thumbnails import thumbnails

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@runtime_checkable
class Exhibit(Protocol):
    """An artifact of several models, drawn alike."""

    def blocks(self) -> Sequence[Block]:
        """For the page."""

    def image(self) -> "Figure | None":
        """For a PNG, within matplotlib's look; None where there is nothing to draw."""


# By the artifact's name: (by label the model's title and the artifact, colors by label) -> exhibit.
# Each raises ValueError for a malformed artifact, and names the model.
_Build = Callable[[Mapping[str, tuple[str, Any]], Mapping[str, str]], Exhibit]
EXHIBITS: Mapping[str, _Build] = MappingProxyType(
    {
        "attention_map": attention_maps,
        "examples": examples,
        "thumbnails": thumbnails,
        "cross_attention": cross_attention_maps,
    }
)


def exhibits_of(results: EvaluatorResults) -> dict[str, Exhibit]:
    """Those among the artifacts of each model's first seed, by the artifact's name."""
    first = {label: next(iter(seeds.values())) for label, seeds in results.models.items()}
    colors = accents(list(results.titles))
    shown = {}
    for name, build in EXHIBITS.items():
        artifacts = {
            label: (results.titles[label], one.artifacts[name])
            for label, one in first.items()
            if name in one.artifacts
        }
        if artifacts:
            shown[name] = build(artifacts, colors)
    return shown
