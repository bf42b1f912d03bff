"""FID and KID: how far the decoded pictures of a set are from the originals, as a distribution.

Both compare features of 256x256 patches, as is usual for compression: those of a grid without
overlap, and of the same grid shifted by 128 pixels in both directions (HiFiC, Mentzer et al. 2020,
appendix A.7). What a grid leaves over at the right and bottom is not used.

FID of few patches is biased upwards, by more than codecs differ: only figures from the same
pictures compare. KID is not biased.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from cdcodec import weights
from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation import metrics
from cdcodec.evaluation.metrics import Metric, SetScore

Extractor: TypeAlias = Callable[[Tensor], Tensor]
"""From patches [B, 3, 256, 256] uint8 to features [B, F]."""

PATCH = 256
MIN_PATCHES = 32
"""Of fewer, neither distance says anything."""

_BATCH = 16
_REMEMBERED_PATCHES = 1 << 15  # 256 MiB of features
# Of Bińkowski et al. 2018: the mean over 100 subsets of 1000.
_KID_SUBSETS = 100
_KID_SUBSET_PATCHES = 1000


def load(names: Sequence[str], extractor: Extractor | None = None) -> dict[str, SetScore]:
    """Return scorers of the metrics `names`; all use one network and its features once.

    Their names say which network: scores by another are others.

    Args:
        names: Of metrics over whole sets.
        extractor: What computes features, instead of the Inception network of the registry.

    Raises:
        InputError: A name is unknown or of a metric of one picture, or a library is missing.
        WeightsError: The weights of a metric are missing.
    """
    chosen = metrics.known(names)
    for metric in chosen:
        if metric.name not in _DISTANCES:
            raise InputError(f"{metric.name} is no metric of whole sets")
    if not chosen:
        return {}
    metrics.library("torchmetrics")  # if it is missing, now rather than after all the encoding
    features = Features(extractor or _inception(chosen[0]))
    of = "another network" if extractor else _hash(chosen[0])
    return {f"{metric.name} by {of}": _score(metric.name, features) for metric in chosen}


def patches(pixels: Pixels) -> Iterator[Pixels]:
    """Yield the patches [256, 256, 3] of a picture [H, W, 3] (see the module)."""
    height, width = pixels.shape[:2]
    rows, columns = height // PATCH, width // PATCH
    for shift in (0, 1):  # the shifted grid has one row and one column less
        for row in range(rows - shift):
            for column in range(columns - shift):
                top, left = (PATCH * n + shift * PATCH // 2 for n in (row, column))
                yield pixels[top : top + PATCH, left : left + PATCH]


def frechet(original: Tensor, decoded: Tensor) -> float:
    """Return the Fréchet distance of the normal distributions of two sets of features [N, F].

    Heusel et al. 2017, eq. 6; covariances are unbiased.
    """
    fid = metrics.library("torchmetrics.image.fid").FrechetInceptionDistance
    return float(_compared(fid(feature=_Through(original.shape[1])), original, decoded))


def kernel(original: Tensor, decoded: Tensor) -> float:
    """Return the kernel distance of two sets of as many features [N, F].

    The unbiased squared maximum mean discrepancy with the kernel (x · y / F + 1)³ (Bińkowski et al.
    2018), of all features at once, or of subsets of them, always the same, if there are many.
    """
    kid = metrics.library("torchmetrics.image.kid").KernelInceptionDistance
    size = min(len(original), _KID_SUBSET_PATCHES)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        metric = kid(
            feature=_Through(original.shape[1]),
            subsets=1 if size == len(original) else _KID_SUBSETS,
            subset_size=size,
        )
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws the subsets from the global one
        torch.manual_seed(0)
        mean, _ = _compared(metric, original, decoded)
    return float(mean)


class Features:
    """Features of the patches of pictures; those of the last ones are remembered.

    The originals come back with every codec and target, all pictures with the second metric.
    """

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._patches = 0

    def of(self, pixels: Pixels) -> Tensor:
        """Return the features of the patches of a picture [N, F] in double precision.

        N is 0, and F too, for a picture that is smaller than a patch.
        """
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key].double()
        features = self._extract(pixels)
        self._known[key] = features
        self._patches += len(features)
        while self._patches > _REMEMBERED_PATCHES:
            self._patches -= len(self._known.popitem(last=False)[1])
        return features.double()

    def _extract(self, pixels: Pixels) -> Tensor:
        cut = list(patches(pixels))
        parts = [torch.zeros(0, 0)]
        with torch.no_grad():
            for start in range(0, len(cut), _BATCH):
                batch = np.stack(cut[start : start + _BATCH]).transpose(0, 3, 1, 2)
                parts.append(self._extractor(torch.from_numpy(batch.copy())).float())
        return torch.cat(parts[1:] or parts)


class _Through(nn.Module):
    """The network that torchmetrics wants, for features that are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def _compared(metric: nn.Module, original: Tensor, decoded: Tensor) -> Tensor:
    with torch.no_grad():
        metric.update(original, real=True)  # type: ignore[operator]
        metric.update(decoded, real=False)  # type: ignore[operator]
        result: Tensor = metric.compute()  # type: ignore[operator]
    return result


def _score(name: str, features: Features) -> SetScore:
    def of_pairs(pairs: Iterable[tuple[Pixels, Pixels]]) -> dict[str, float | None]:
        both = [(features.of(original), features.of(decoded)) for original, decoded in pairs]
        both = [each for each in both if len(each[0])]
        if sum(len(original) for original, _ in both) < MIN_PATCHES:
            return {name: None}
        originals, decodeds = zip(*both, strict=True)
        return {name: _DISTANCES[name](torch.cat(originals), torch.cat(decodeds))}

    return of_pairs


def _hash(metric: Metric) -> str:
    assert metric.weights is not None
    return "-".join(file.sha256[:8] for file in weights.find(metric.weights).files)


def _inception(metric: Metric) -> Extractor:
    from cdcodec.nn.inception import Inception

    return Inception.load(metrics.weight_file(metric))


_DISTANCES = {"fid": frechet, "kid": kernel}
