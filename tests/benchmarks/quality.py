"""Measure codecs on a folder of pictures: a table, curves and one row per decoded file.

    python -m tests.benchmarks.quality FOLDER --out DIR --lpips lpips_squeeze.safetensors

Every point is a real file: written, read back and decoded; its whole size counts. cdc runs through
cdcodec.api, the anchors through Pillow over their quality scale. DIR gets files/, rows.jsonl,
table.md, curves.svg and anchors.jsonl, from which the anchors' rows are taken the next time.

LPIPS is what our models are trained on (--lpips); no model is trained on the metrics after it in
TITLES. It takes what the package itself needs no more:

    pip install --no-deps piq
    pip install --no-deps scikit-video
    pip install matplotlib pytorch-msssim ssimulacra2

(piq wants torchvision for networks that are not used here.)
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
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_msssim  # type: ignore[import-untyped]
import torch
from PIL import Image
from ssimulacra2 import compute_ssimulacra2  # type: ignore[import-untyped]
from torch import Tensor

from cdcodec import api
from cdcodec.codec import Decoding, Pixels
from cdcodec.errors import InputError
from cdcodec.nn.perceptual import Lpips
from tests.benchmarks import niqe

Metric = Callable[[Pixels, Pixels], float]
"""Of the original and the decoded picture, both [H, W, 3]."""
Row = dict[str, Any]
Curves = dict[str, list[Row]]
"""By the name of a curve, its points (means over n pictures) in order of bpp."""

_JPEG = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
ANCHORS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "avif": ("AVIF", {"speed": 6}, (0, 3, 8, 16, 24, 32)),
    "webp": ("WebP", {"method": 6}, (0, 1, 3, 6)),
    "jpeg": ("JPEG", _JPEG, (1, 3, 6, 10)),
}
"""Pillow's format, options and qualities, from the smallest file to about 0.3 bpp."""
TITLES = {
    "psnr": "PSNR, dB ↑",
    "ms_ssim": "MS-SSIM ↑",
    "lpips": "LPIPS-Squeeze ↓",
    "gmsd": "GMSD ↓",
    "haarpsi": "HaarPSI ↑",
    "fsim": "FSIMc ↑",
    "mdsi": "MDSI ↓",
    "vif": "VIFp ↑",
    "ssimulacra2": "SSIMULACRA2 ↑",
    "niqe": "NIQE ↓",
}
PLOTTED = ("ms_ssim", "psnr", "lpips", "ssimulacra2", "niqe")


def psnr(original: Pixels, decoded: Pixels) -> float:
    """Over all samples of RGB."""
    error = np.square(original.astype(np.float64) - decoded).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def ms_ssim(original: Pixels, decoded: Pixels) -> float:
    """Wang et al. 2003, five scales, mean over R, G and B."""
    return float(pytorch_msssim.ms_ssim(_tensor(original), _tensor(decoded), data_range=1.0))


def load_metrics(lpips: Path | None) -> dict[str, Metric]:
    """Return the metrics in the order of TITLES; LPIPS only with its weights."""
    # piq's __init__ imports torchvision; an empty parent lets its modules load without.
    spec = importlib.util.find_spec("piq")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("piq is missing; the docstring says what to install")
    sys.modules["piq"] = types.ModuleType("piq")
    sys.modules["piq"].__path__ = spec.submodule_search_locations

    def piq(module: str, function: str) -> Metric:
        score = getattr(importlib.import_module(f"piq.{module}"), function)
        return lambda x, y: float(score(_tensor(y), _tensor(x), data_range=1.0))

    def png(picture: Pixels) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG", compress_level=0)
        return file

    metrics: dict[str, Metric] = {"psnr": psnr, "ms_ssim": ms_ssim}
    if lpips is not None:
        network = Lpips.load(lpips)
        metrics["lpips"] = lambda x, y: float(network(2 * _tensor(x) - 1, 2 * _tensor(y) - 1))
    metrics |= {name: piq(name, name) for name in ("gmsd", "haarpsi", "fsim", "mdsi")}
    metrics["vif"] = piq("vif", "vif_p")
    metrics["ssimulacra2"] = lambda x, y: float(compute_ssimulacra2(png(x), png(y)))
    natural = niqe.load()
    metrics["niqe"] = lambda _x, y: natural(y)
    return metrics


def _tensor(picture: Pixels) -> Tensor:
    """Return [H, W, 3] as [1, 3, H, W] in 0..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def measured_rows(options: argparse.Namespace, metrics: dict[str, Metric]) -> Iterator[Row]:
    """Yield the rows of all codecs, those of the anchors from the cache where it has them."""
    keys = ("image", "sha256", "codec", "quality")
    cache = options.anchors or options.out / "anchors.jsonl"
    lines = cache.read_text().splitlines() if cache.exists() else []
    known = {tuple(row[key] for key in keys): row for row in map(json.loads, lines)}
    files = options.out / "files"
    files.mkdir(parents=True, exist_ok=True)
    for source in sorted(options.folder.glob("*.png"))[: options.limit]:
        print(source.name, file=sys.stderr)
        original = np.asarray(Image.open(source).convert("RGB"))
        picture = Image.fromarray(original)  # without the metadata of the source
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()[:16]

        def row(path: Path, decoded: Pixels, labels: Row, original: Pixels = original) -> Row:
            size_bytes = path.stat().st_size
            size = {"bytes": size_bytes, "bpp": 8 * size_bytes / original[..., 0].size}
            with torch.no_grad():
                new = {n: metrics[n](original, decoded) for n in metrics if n not in labels}
            return labels | size | new

        base: Row = {"image": source.name, "sha256": sha256}
        for target in options.bpp if "cdc" in options.codecs else ():
            path = files / f"{source.stem}-{target:g}.cdc"
            try:
                path.write_bytes(api.encode(picture, bpp=target, model=options.model).data)
            except InputError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                continue
            for steps in options.steps:
                decoded = api.decode(path, Decoding(steps=steps)).picture.pixels
                labels = {"codec": f"{options.model}, steps {steps}", "target_bpp": target}
                yield row(path, decoded, base | labels)
        for codec in [codec for codec in ANCHORS if codec in options.codecs]:
            format_name, how, qualities = ANCHORS[codec]
            for quality in qualities:
                key = (source.name, sha256, codec, quality)
                if not metrics.keys() <= known.get(key, {}).keys():
                    path = files / f"{source.stem}-q{quality}.{codec}"
                    picture.save(path, format_name, quality=quality, **how)
                    decoded = np.asarray(Image.open(path).convert("RGB"))
                    labels = known.get(key, base | {"codec": codec, "quality": quality})
                    known[key] = row(path, decoded, labels)
                    with cache.open("a") as file:
                        file.write(json.dumps(known[key]) + "\n")
                yield known[key]


def mean_curves(rows: list[Row], metrics: dict[str, Metric]) -> Curves:
    """Average over the pictures what has the same quality or target."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["codec"], row.get("target_bpp", row.get("quality"))].append(row)
    curves: Curves = defaultdict(list)
    for (codec, _), group in groups.items():
        sizes = [row["bpp"] for row in group]
        point: Row = {"n": len(group), "target_bpp": group[0].get("target_bpp")}
        point |= {"bpp": float(np.mean(sizes)), "low": min(sizes), "high": max(sizes)}
        point |= {name: float(np.mean([row[name] for row in group])) for name in metrics}
        curves[codec].append(point)
    return {codec: sorted(points, key=lambda p: p["bpp"]) for codec, points in curves.items()}


def table(curves: Curves, targets: list[float], metrics: dict[str, Metric]) -> str:
    """Return Markdown: for every target our codecs, and the anchors at our mean bpp."""
    pictures = max(point["n"] for points in curves.values() for point in points)
    text = f"""Means over {pictures} pictures; real files, whole sizes. Anchors are interpolated
at our mean bpp, linearly in log(bpp); one that doesn't get there is shown at its nearest point.
"""

    def line(label: str, point: Row) -> str:
        cells = [f"{point[name]:.{3 if abs(point[name]) < 2 else 2}f}" for name in metrics]
        return f"| {label} | {point['bpp']:.4f} | {' | '.join(cells)} |\n"

    for target in targets:
        text += f"\n## {target:g} bpp\n\n| codec | bpp | "
        text += " | ".join(TITLES[name] for name in metrics) + " |\n"
        text += "|---|---|" + "---|" * len(metrics) + "\n"
        bpp = target
        ours = [(c, p) for c, points in curves.items() for p in points if p["target_bpp"] == target]
        for codec, point in ours:
            bpp = point["bpp"]
            note = f"{point['low'] / target:.3f}–{point['high'] / target:.3f} of the target"
            note += f", {point['n']} pictures only" if point["n"] < pictures else ""
            text += line(f"{codec} ({note})", point)
        for codec in [codec for codec in ANCHORS if codec in curves]:
            points = curves[codec]
            log = [math.log(point["bpp"]) for point in points]
            if bpp < points[0]["bpp"]:
                text += line(f"{codec} (its smallest)", points[0])
            elif bpp > points[-1]["bpp"]:
                text += line(f"{codec} (largest measured)", points[-1])
            else:
                at = {n: np.interp(math.log(bpp), log, [p[n] for p in points]) for n in metrics}
                text += line(codec, {"bpp": bpp} | at)
    return text


def plot(curves: Curves, metrics: dict[str, Metric], path: Path) -> None:
    """Draw the mean curves of the PLOTTED metrics."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "cdcodec", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    styles = {"avif": ("#444444", "-"), "webp": ("#777777", "--"), "jpeg": ("#aaaaaa", ":")}
    ours = iter(("#0072b2", "#d55e00", "#009e73", "#cc79a7"))
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
    shown = [name for name in PLOTTED if name in metrics]
    for codec, points in sorted(curves.items()):
        colour, dashes = styles[codec] if codec in styles else (next(ours), "-")
        sizes = [point["bpp"] for point in points]
        for axis, name in zip(axes.flat, shown, strict=False):
            values = [point[name] for point in points]
            axis.plot(sizes, values, dashes, color=colour, marker=".", label=codec)
            axis.set(title=TITLES[name], xlabel="bpp", xscale="log", xlim=(0.025, 0.35))
            axis.set_xticks(ticks := [0.03, 0.05, 0.1, 0.2, 0.3], [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run what the command line asks for."""

    def numbers(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quality")
    parser.add_argument("folder", type=Path, help="PNG pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--bpp", type=numbers, default=[0.03, 0.05, 0.1, 0.2])
    parser.add_argument("--steps", type=lambda t: [int(n) for n in t.split(",")], default=[1, 5])
    parser.add_argument("--model", default=api.DEFAULT_MODEL)
    parser.add_argument("--codecs", type=lambda t: t.split(","), default=["cdc", *ANCHORS])
    parser.add_argument("--lpips", type=Path, help="weights of LPIPS with a SqueezeNet trunk")
    parser.add_argument("--anchors", type=Path, help="cache; default anchors.jsonl in OUT")
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    options = parser.parse_args()
    metrics = load_metrics(options.lpips)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with (options.out / "rows.jsonl").open("w") as file:
        for row in measured_rows(options, metrics):
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    if not rows:
        parser.error(f"nothing to measure in {options.folder}")
    curves = mean_curves(rows, metrics)
    text = table(curves, options.bpp, metrics)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    plot(curves, metrics, options.out / "curves.svg")


if __name__ == "__main__":
    main()
