"""How near a decoded picture is to its original: metrics of one pair of pictures.

Metrics over a whole set of pictures are listed here too, and computed in `sets`.
"""

from __future__ import annotations

import difflib
import io
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cdcodec import weights
from cdcodec.codec import Pixels
from cdcodec.errors import InputError, WeightsError, extra_hint

if TYPE_CHECKING:
    from torch import Tensor

Score: TypeAlias = Callable[[Pixels, Pixels], float | None]
"""Of the original and the decoded picture, both [H, W, 3]; None where it isn't defined."""

SetScore: TypeAlias = Callable[[Iterable[tuple[Pixels, Pixels]]], dict[str, float | None]]
"""By name, of pairs of original and decoded picture; None where it isn't defined for so few."""

PSNR_OF_EQUALS_DB = 100.0


@dataclass(frozen=True)
class Metric:
    """What a metric is called and how its figures read.

    Attributes:
        name: As `--metrics` and rows name it.
        title: As tables and plots name it.
        unit: After the figure; mostly there is none.
        higher_is_better: Or lower is.
        digits: Behind the point.
        weights: Name of the weight set that it needs.
        whole: Over a set of pictures instead of one.
        min_side: Pixels; it isn't defined for pictures with a shorter side.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 3
    weights: str | None = None
    whole: bool = False
    min_side: int = 1


# The least sides: one window of SSIM and of VIF's first scale (whose last scales need it too), one
# such window at the last scale of MS-SSIM, the longest Haar filter, and for the others one place
# where the filters see nothing but the picture.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", digits=2),
        Metric("ssim", "SSIM", min_side=11),
        Metric("ms_ssim", "MS-SSIM", min_side=161),
        Metric("vif", "VIF", min_side=41),
        Metric("fsim", "FSIMc", min_side=3),
        Metric("gmsd", "GMSD", higher_is_better=False, min_side=6),
        Metric("vsi", "VSI", min_side=3),
        Metric("haarpsi", "HaarPSI", min_side=16),
        Metric("dists", "DISTS", higher_is_better=False, weights="dists", min_side=16),
        Metric(
            "lpips",
            "LPIPS (SqueezeNet)",
            higher_is_better=False,
            weights="lpips-squeeze",
            min_side=17,
        ),
        Metric("ssimulacra2", "SSIMULACRA2", digits=1, min_side=8),
        Metric("fid", "FID", higher_is_better=False, digits=1, weights="inception-fid", whole=True),
        Metric("kid", "KID", higher_is_better=False, digits=4, weights="inception-fid", whole=True),
    )
}
"""In the order of tables."""

_BY_DEFAULT = ("psnr", "ssim", "ms_ssim", "vif", "fsim", "gmsd", "vsi", "haarpsi", "lpips")


def known(names: Iterable[str]) -> list[Metric]:
    """Look metrics up by name.

    Raises:
        InputError: There is none of a name; the hint says which is nearest.
    """
    found = []
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, 1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(METRICS)
            raise InputError(f"unknown metric {name!r}", hint=hint)
        found.append(METRICS[name])
    return found


def default_names() -> tuple[list[str], list[str]]:
    """Return the metrics to take if none are named, and those left out for want of weights."""
    here = [name for name in _BY_DEFAULT if _has_weights(METRICS[name])]
    return here, [name for name in _BY_DEFAULT if name not in here]


def load(names: Sequence[str]) -> dict[str, Score]:
    """Return the metrics `names` of one pair of pictures, ready to run.

    A score is None for a picture that is too small for the metric, or for which it has no value.

    Raises:
        InputError: A name is unknown or of a metric over whole sets, or a library is missing.
        WeightsError: The weights of a metric are missing.
    """
    scores = {}
    for metric in known(names):
        if metric.whole:
            raise InputError(f"{metric.name} is a metric of whole sets, not of one picture")
        scores[metric.name] = _where_defined(metric, _LOADERS[metric.name]())
    return scores


def weight_file(metric: Metric) -> Path:
    """Return the file with the weights of `metric`, which must need some.

    Raises:
        WeightsError: They are missing or damaged.
    """
    assert metric.weights is not None
    try:
        (path,) = weights.resolve(metric.weights)
    except WeightsError as error:
        message = f"{metric.name} needs the weight set {metric.weights}, which is not here"
        raise WeightsError(f"{message}: {error.message}", hint=error.hint) from error
    return path


def library(module: str) -> Any:
    """Import a module of the libraries that evaluation alone needs.

    Raises:
        InputError: It isn't installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise _missing(module) from error


def psnr(original: Pixels, decoded: Pixels) -> float:
    """Return the PSNR over all samples of R, G and B, in dB; equal pictures have 100 dB.

    Nothing has more: one sample off by one in 24 megapixels would be 127 dB.
    """
    error = float(np.square(original.astype(np.float64) - decoded).mean())
    if error == 0:
        return PSNR_OF_EQUALS_DB
    return min(10 * math.log10(255**2 / error), PSNR_OF_EQUALS_DB)


def _where_defined(metric: Metric, score: Score) -> Score:
    def bounded(original: Pixels, decoded: Pixels) -> float | None:
        if original.shape != decoded.shape:
            sizes = " and ".join(f"{p.shape[1]}x{p.shape[0]}" for p in (original, decoded))
            raise InputError(f"pictures of {sizes} pixels cannot be compared")
        if min(original.shape[:2]) < metric.min_side:
            return None
        value = score(original, decoded)
        return value if value is not None and math.isfinite(value) else None

    return bounded


def _has_weights(metric: Metric) -> bool:
    if metric.weights is None:
        return True
    try:
        weights.resolve(metric.weights, offline=True)
    except WeightsError:
        return False
    return True


def _piq(module: str, function: str, **options: object) -> Score:
    """Return a metric of piq, of RGB in 0..1."""
    score = getattr(_piq_module(module), function)
    # piq's VIF takes its second picture for the original; the others don't mind.
    return _tensors(lambda x, y: score(y, x, data_range=1.0, **options))


def _piq_module(name: str) -> Any:
    """Import a module of piq, without piq's `__init__` unless someone has imported piq before.

    That imports torchvision, for networks that are not used here; torchvision only loads where it
    was built for the very torch that is installed. With an empty package for a parent the other
    modules load without. The stand-in goes again, so that `import piq` is what it was.

    Raises:
        InputError: piq isn't installed.
    """
    if "piq" in sys.modules:
        return library(f"piq.{name}")
    spec = find_spec("piq")
    if spec is None or spec.submodule_search_locations is None:
        raise _missing("piq")
    parent = ModuleType("piq")
    parent.__path__ = list(spec.submodule_search_locations)
    sys.modules["piq"] = parent
    try:
        return library(f"piq.{name}")
    finally:
        del sys.modules["piq"]


def _lpips() -> Score:
    """LPIPS with the SqueezeNet trunk, v0.1 heads."""
    from cdcodec.nn.perceptual import Lpips

    network = Lpips.load(weight_file(METRICS["lpips"]))
    return _tensors(lambda x, y: network(2 * x - 1, 2 * y - 1))


def _dists() -> Score:
    """DISTS at full resolution, as papers on compression have it; its authors shrink to 256."""
    from cdcodec.nn.vgg import Dists

    return _tensors(Dists.load(weight_file(METRICS["dists"])))


def _ssimulacra2() -> Score:
    """SSIMULACRA 2.1, in a port of the C++ code; seconds per megapixel."""
    compute = library("ssimulacra2").compute_ssimulacra2
    image = library("PIL.Image")

    def file(pixels: Pixels) -> io.BytesIO:
        data = io.BytesIO()
        image.fromarray(pixels).save(data, "PPM")
        return data

    return lambda original, decoded: float(compute(file(original), file(decoded)))


def _tensors(score: Callable[[Tensor, Tensor], Tensor]) -> Score:
    """Make a score of pictures of one of tensors [1, 3, H, W] in 0..1."""
    import torch

    def tensor(pixels: Pixels) -> Tensor:
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255

    def of_pixels(original: Pixels, decoded: Pixels) -> float:
        with torch.no_grad():
            return float(score(tensor(original), tensor(decoded)))

    return of_pixels


def _missing(module: str) -> InputError:
    package = module.partition(".")[0]
    return InputError(f"{package} is not installed", hint=extra_hint("eval"))


_LOADERS: dict[str, Callable[[], Score]] = {
    "psnr": lambda: psnr,
    # As published in 2004: a Gaussian window of 11x11 with sigma 1.5, at full resolution. piq would
    # shrink the pictures first, as the authors' later script does.
    "ssim": lambda: _piq("ssim", "ssim", downsample=False),
    "ms_ssim": lambda: _piq("ms_ssim", "multi_scale_ssim"),
    "vif": lambda: _piq("vif", "vif_p"),
    "fsim": lambda: _piq("fsim", "fsim"),
    "gmsd": lambda: _piq("gmsd", "gmsd"),
    "vsi": lambda: _piq("vsi", "vsi"),
    "haarpsi": lambda: _piq("haarpsi", "haarpsi"),
    "dists": _dists,
    "lpips": _lpips,
    "ssimulacra2": _ssimulacra2,
}
