"""Which pictures are alike in texture and content (paper 000, sec. 3.1): labels for training only.

A pretrained network's maps of several stages (eq. 1), the magnitude of their Fourier spectra
(eq. 2), the cosine between these (eq. 3), and K-means on them; the clusters are the labels.

What the paper has otherwise, or leaves open. The exponent of eq. 2 lacks a factor: with -i pi / 2
it is no Fourier transform, so we take the ordinary one. Eq. 3 is called a distance and is a
similarity; our distance is 1 minus it. Magnitudes don't change if a map moves round its edges, but
do if it is mirrored: spectra are folded over their axes, which mends that. (Both hold for maps
exactly. For pictures they hold as far as the network, whose filters have a left and a right, does
the same to all.) A spectrum is summed up in a few bands, as the single bins of a texture are noise.
The last stages would drown in the first, whose numbers are larger, so all stages have length one.
VGG-16 (cdcodec/nn/vgg16.py) is the paper's network; where it can't be had, the SqueezeNet of the
perceptual loss, trained on ImageNet too, stands in: anything that maps pictures to maps will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdcodec.errors import InputError

BANDS = (0.0, 1 / 8, 1 / 2)
"""Upper ends of the bands, in cycles a position; the first has the mean alone."""

CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32)
"""Numbers of clusters to choose from."""

ROUNDS = 100
STARTS = 4

Features = Callable[[Tensor], Sequence[Tensor]]
"""Gives maps [B, C, h, w] of several stages, for pictures [B, 3, H, W] in -1..1."""


def spectrum(maps: Tensor) -> Tensor:
    """Return the folded magnitude of the Fourier transform, [B, C, h // 2 + 1, w // 2 + 1].

    Of the four frequencies (k, l), (-k, l), (k, -l) and (-k, -l) it is the root of the mean square.
    Maps that are moved round their edges or mirrored, either way, have the same.

    Args:
        maps: [B, C, h, w], any range. Magnitudes are over the root of h w, so that their squares
            add up to those of the maps.
    """
    return _power(maps).sqrt()


def _power(maps: Tensor) -> Tensor:
    half = maps.shape[-2] // 2
    # Of l and -l rfft2 keeps l; (k, -l) has the power of (-k, l), since maps are real.
    power = torch.view_as_real(torch.fft.rfft2(maps.float(), norm="ortho")).square().sum(-1)
    mirrored = torch.cat([power[..., :1, :], power.flip(-2)[..., :half, :]], -2)
    folded: Tensor = (power[..., : half + 1, :] + mirrored) / 2
    return folded


def bands(maps: Tensor) -> Tensor:
    """Return the root of the mean power in each of BANDS, [B, C, 3]: the first is the mean's size.

    Frequencies are as high as the higher of their two parts. Small maps have none in some bands,
    which are then 0.

    Args:
        maps: [B, C, h, w], any range.
    """
    height, width = maps.shape[-2:]
    rows, columns = (torch.arange(n // 2 + 1, device=maps.device) for n in (height, width))
    # Every bin stands for as many as were folded into it.
    often = (1 + _folded(rows, height))[:, None] * (1 + _folded(columns, width))
    frequency = torch.maximum((rows / height)[:, None], columns / width)
    band = torch.bucketize(frequency, torch.tensor(BANDS, device=maps.device))
    members = F.one_hot(band, len(BANDS)).float() * often[..., None] / (height * width)
    power = _power(maps).flatten(2) @ members.flatten(0, 1)
    return torch.sqrt(power)


def _folded(frequency: Tensor, length: int) -> Tensor:
    return (frequency != 0) & (2 * frequency != length)


def descriptors(maps: Sequence[Tensor]) -> Tensor:
    """Return what pictures are compared by, [B, D] of length one: three values a channel.

    Args:
        maps: Of every stage [B, C, h, w], any range; all stages count the same.
    """
    stages = [F.normalize(bands(stage).flatten(1), dim=1) for stage in maps]
    return torch.cat(stages, 1) / math.sqrt(len(stages))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 minus the cosine (eq. 3), [N, M], of descriptors [N, D] and [M, D]."""
    similarity: Tensor = a @ b.T
    return 1 - similarity


@dataclass(frozen=True)
class Clusters:
    """What K-means found.

    Attributes:
        centroids: [K, D], of length one.
        labels: int64 [N], the nearest centroid of each descriptor.
        variation: Mean distance of descriptors from theirs.
    """

    centroids: Tensor
    labels: Tensor
    variation: float


def k_means(points: Tensor, clusters: int, seed: int = 0) -> Clusters:
    """Cluster descriptors [N, D] by cosine; of a few seeded starts, the best."""
    generator = torch.Generator().manual_seed(seed)
    found = [_k_means(points, clusters, generator) for _ in range(STARTS)]
    return min(found, key=lambda each: each.variation)


def _k_means(points: Tensor, clusters: int, generator: torch.Generator) -> Clusters:
    centroids = _seeds(points, clusters, generator)
    nearest, labels = distance(points, centroids).min(1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centroids).index_add_(0, labels, points)
        empty = torch.bincount(labels, minlength=clusters) == 0
        if empty.any():  # they go to the points that are worst off
            sums[empty] = points[nearest.topk(int(empty.sum())).indices]
        centroids = F.normalize(sums, dim=1)
        before = labels
        nearest, labels = distance(points, centroids).min(1)
        if (labels == before).all():
            break
    return Clusters(centroids, labels, nearest.mean().item())


def _seeds(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Draw points as k-means++ does (Arthur and Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    nearest = distance(points, points[chosen])[:, 0]
    while len(chosen) < clusters:
        weight = nearest.clamp_min(0).double().cpu() + 1e-12  # equal points must not end the draw
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
        nearest = torch.minimum(nearest, distance(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


@dataclass(frozen=True)
class Elbow:
    """The curve that the number of clusters is read from (paper 000, fig. 4).

    Attributes:
        candidates: Numbers of clusters, rising.
        variation: Mean distance of descriptors from their centroid, for each.
        chosen: Where the curve is furthest below the line between its ends.
    """

    candidates: tuple[int, ...]
    variation: tuple[float, ...]
    chosen: int


def elbow(candidates: Sequence[int], variation: Sequence[float]) -> Elbow:
    """Find the bend of a curve; one that has none bends at its first candidate."""
    first, last = candidates[0], candidates[-1]
    span = max(last - first, 1)
    below = [
        variation[0] + (variation[-1] - variation[0]) * (number - first) / span - value
        for number, value in zip(candidates, variation, strict=True)
    ]
    chosen = candidates[below.index(max(below))]
    return Elbow(tuple(candidates), tuple(variation), chosen)


class PseudoLabels(nn.Module):
    """Labels pictures by their nearest cluster. Its state, the centroids, fits a checkpoint."""

    def __init__(self, features: Features) -> None:
        """Take the network that pictures are described by; it isn't part of the state."""
        super().__init__()
        self._features = (features,)  # in a tuple, where nn.Module doesn't look for modules
        self.centroids: Tensor
        self.register_buffer("centroids", torch.empty(0, 0))

    @property
    def fitted(self) -> bool:
        """Whether there are clusters yet."""
        return len(self.centroids) > 0

    @torch.no_grad()
    def describe(self, x: Tensor) -> Tensor:
        """Return descriptors [B, D] of pictures [B, 3, H, W] in -1..1."""
        maps = self._features[0](x)
        with torch.autocast(x.device.type, enabled=False):
            return descriptors(maps)

    def fit(
        self, batches: Iterable[Tensor], candidates: Sequence[int] = CANDIDATES, seed: int = 0
    ) -> Elbow:
        """Find clusters of pictures, batches [B, 3, H, W] in -1..1 that are as large as later ones.

        A thousand pictures will do.

        Raises:
            InputError: If there are no more pictures than clusters to try.
        """
        return self.fit_descriptors(
            torch.cat([self.describe(x) for x in batches]), candidates, seed
        )

    @torch.no_grad()
    def fit_descriptors(
        self, points: Tensor, candidates: Sequence[int] = CANDIDATES, seed: int = 0
    ) -> Elbow:
        """Find clusters of descriptors [N, D], as many as the elbow says, and keep them.

        Raises:
            InputError: If there are no more descriptors than clusters to try.
        """
        if len(points) <= max(candidates):
            raise InputError(f"{len(points)} pictures are too few for {max(candidates)} clusters")
        points = points.float().cpu()  # where sums have an order
        found = {number: k_means(points, number, seed) for number in candidates}
        curve = elbow(candidates, [each.variation for each in found.values()])
        self.centroids = found[curve.chosen].centroids.to(self.centroids.device)
        return curve

    def label(self, x: Tensor) -> Tensor:
        """Return the cluster of each of x [B, 3, H, W] in -1..1, int64 [B]."""
        described = self.describe(x)
        with torch.autocast(x.device.type, enabled=False):
            return distance(described, self.centroids).argmin(1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # How many clusters there are is part of what is loaded.
        stored = state_dict.get(f"{prefix}centroids")
        if isinstance(stored, Tensor):
            self.centroids = self.centroids.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
