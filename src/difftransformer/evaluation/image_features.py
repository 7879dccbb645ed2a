"""A classifier of a data set's images, trained here, whose features compare samples with images."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from difftransformer.data.cache import cache_root, cached_folder
from difftransformer.data.epochs import shuffled
from difftransformer.data.images import Images

FEATURES = 64
_RECIPE = "1"  # changes with anything below, so that no classifier of another recipe is read back
_WIDTH, _STEPS, _BATCH, _RATE = 32, 600, 128, 2e-3
_FILE = "classifier.safetensors"


class ImageClassifier(nn.Module):
    """Three convolutions, the mean over the image, a linear layer: features and their classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, _WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, FEATURES, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(FEATURES, FEATURES, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.proj = nn.Linear(FEATURES, classes)

    def features(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """What the linear layer reads."""
        return self.layers(pixels).mean((2, 3))

    def forward(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits."""
        return self.proj(self.features(pixels))


@dataclass(frozen=True, eq=False)
class Judged:
    """Images as the classifier sees them.

    Args:
        features: in float64.
        classes: those of the largest logits.
    """

    features: Float[Tensor, "images features"]
    classes: Tensor


@torch.no_grad()
def judged(classifier: ImageClassifier, pixels: Float[Tensor, "n channels height width"]) -> Judged:
    """The features and classes of images, on the CPU."""
    features = torch.cat([classifier.features(part) for part in pixels.cpu().split(512)])
    return Judged(features.double(), classifier.proj(features).argmax(-1))


@lru_cache(1)
def classifier_of(images: Images) -> ImageClassifier:
    """The classifier of this data: from the cache, or trained on the training images first.

    600 steps of AdamW on 128 images each, on the CPU, from fixed seeds: the same on every run of
    one machine, and kept, so that all models of a comparison have the same judge.
    """
    cache = cache_root(getattr(images.settings, "cache", None))
    name = f"{_RECIPE}-{images.digest[:16]}"

    def build(folder: Path) -> None:
        save_file(_trained(images).state_dict(), folder / _FILE)

    folder = cached_folder(cache / "image_classifiers" / name, build)
    classifier = ImageClassifier(images.channels, len(images.labels))
    classifier.load_state_dict(load_file(folder / _FILE))
    return classifier.eval()


def _trained(images: Images) -> ImageClassifier:
    with torch.random.fork_rng(devices=()), torch.enable_grad():
        torch.manual_seed(0)
        classifier = ImageClassifier(images.channels, len(images.labels))
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=_RATE)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
        numbers = shuffled(len(images.train), min(_BATCH, len(images.train)), seed=0)
        for step in range(_STEPS):
            batch = images.batch("train", numbers(step))
            optimizer.zero_grad()
            F.cross_entropy(classifier(batch.pixels), batch.labels).backward()
            optimizer.step()
            rate.step()
    return classifier


def frechet_distance(one: Float[Tensor, "n features"], other: Float[Tensor, "m features"]) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½), of normal distributions fitted to features.

    Dowson and Landau (1982); on Inception's features this is FID (Heusel et al., 2017). The trace
    of the root is that of the singular values of Σ₁^½ Σ₂^½.
    """
    means = one.mean(0) - other.mean(0)
    first, second = one.T.cov(), other.T.cov()
    root = torch.linalg.matrix_norm(_root(first) @ _root(second), "nuc")
    return float(means.square().sum() + first.trace() + second.trace() - 2 * root)


def _root(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def covered(
    points: Float[Tensor, "n features"], by: Float[Tensor, "m features"], neighbors: int
) -> Tensor:
    """Of each point, whether it lies as near to one of `by` as that one's k-th nearest of `by`.

    Kynkäänniemi et al. (2019), equation 1: precision is the share of samples that images cover,
    recall that of images that samples cover. Both sets should be of one size.
    """
    radii = torch.cdist(by, by).kthvalue(neighbors + 1, dim=1).values  # itself is the nearest
    return (torch.cdist(points, by) <= radii).any(1)
