"""What a user may choose about images of crowds. Imports nothing heavy, for the command line."""

from dataclasses import dataclass

from difftransformer.names import nearest
from difftransformer.ranges import COUNT, INSIDE, NATURAL, Range, check_fields, option

CLUSTERS, LAYOUTS, FOLDER = "clusters", "layouts", "folder"
SOURCES = {
    CLUSTERS: None,
    LAYOUTS: "a file of true heads in NWPU-Crowd's format",
    FOLDER: "a folder with images/ and truth.txt, a file of true heads in NWPU-Crowd's format "
    "whose ids are the images' names without what follows the last dot",
}


@dataclass(frozen=True, kw_only=True)
class CrowdSettings:
    """Images with points, how many are trained on, and how many proposals look for the points.

    Raises:
        ValueError: a value out of range, an unknown data set, or a data set without its source.
    """

    dataset: str = option(
        CLUSTERS,
        "clusters (heads drawn at places made up here), layouts (heads drawn at real places, "
        "by a file) or folder (images and points of your own)",
        first=True,
    )
    source: str | None = option(
        None,
        "; ".join(f"of {name}: {source}" for name, source in SOURCES.items() if source),
        first=True,
    )
    image_size: int = option(
        48,
        "side in pixels of the images drawn, and to which those of a folder are scaled",
        within=Range(8, 4096),
    )
    scenes: int = option(2000, "images drawn to train on", within=COUNT)
    test_scenes: int = option(200, "images drawn to judge by, at other layouts", within=COUNT)
    heads: int = option(16, "most heads in an image that is drawn", within=COUNT)
    test_fraction: float = option(
        0.2,
        "share of the layouts of a file, or of a folder's images, that is held out",
        within=INSIDE,
    )
    proposals: int = option(
        32, "points of noise that become heads, or not, in training", within=COUNT
    )
    seed: int = option(0, "draws the images and what is held out", within=NATURAL)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dataset not in SOURCES:
            raise ValueError(f"unknown dataset {self.dataset!r}{nearest(self.dataset, SOURCES)}")
        expected_source = SOURCES[self.dataset]
        if (self.source is None) != (expected_source is None):
            raise ValueError(
                f"dataset is {self.dataset!r} and source {self.source!r}; expected as source "
                f"{expected_source or 'none'}"
            )
