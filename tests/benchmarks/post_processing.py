"""Measure what only CGDM has: the syntax vector, its tuning, and seams between patches.

    python -m tests.benchmarks.post_processing PICTURES LPIPS [--large PICTURE] [--tune N]

For every picture and target: a file, decoded as it is, with a neutral vector in place of its own,
and with one that N iterations tuned at the same rate point. Beside LPIPS stands a metric that
compares structure and texture as DISTS does, on maps of the same trunk, as the weights of DISTS
can't be had. Then the energy of gradients across the borders of patches, against that inside, on
the picture --large.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cdcodec import api, families, image
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import ChunkType
from cdcodec.codec import Decoding, Pixels
from cdcodec.diffusion import tiling
from cdcodec.families.cgdm.codec import OVERLAP, PATCH
from cdcodec.nn.perceptual import Lpips

MODEL = "cgdm-nano"
TARGETS = (0.05, 0.1, 0.2)


def neutral(data: bytes) -> bytes:
    """Return a file without its syntax vector."""
    file = box.read(data)
    chunks = tuple(
        replace(chunk, payload=b"") if chunk.type == ChunkType.SYNTAX else chunk
        for chunk in file.chunks
    )
    return box.write(replace(file, chunks=chunks))


def structure_and_texture(lpips: Lpips, x: Tensor, y: Tensor) -> float:
    """Return 1 less the mean of DISTS's two similarities (Ding et al. 2020, eq. 4 and 5).

    On x and y [1, 3, H, W] in -1..1 and the maps of SqueezeNet, all channels alike. 0 is equal.
    """
    similar = []
    for a, b in zip((x, *lpips.taps(x)), (y, *lpips.taps(y)), strict=True):
        of_a, of_b = a.mean((2, 3)), b.mean((2, 3))
        covariance = (a * b).mean((2, 3)) - of_a * of_b
        spread = a.var((2, 3), correction=0) + b.var((2, 3), correction=0)
        texture = (2 * of_a * of_b + 1e-6) / (of_a.square() + of_b.square() + 1e-6)
        structure = (2 * covariance + 1e-6) / (spread + 1e-6)
        similar.append(((texture + structure) / 2).mean())
    return 1 - float(torch.stack(similar).mean())


def seams(residual: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean energy of gradients where ramps begin and end, and on lines close by.

    Close by, since the energy depends on what the picture shows there far more than on seams; and
    16 or 32 pixels away, since networks that draw blocks of 16 treat the lines in between another
    way.

    Args:
        residual: What the post-processor added, [H, W, 3]: the picture's own edges stay out.
    """
    at: list[float] = []
    near: list[float] = []
    for axis in (0, 1):
        energy = np.square(np.diff(residual, axis=axis)).mean((1 - axis, 2))
        length = residual.shape[axis]
        windows = tiling.tiles(length + -length % 16, PATCH, PATCH, OVERLAP, 16)
        borders = {b - 1 for w in windows for b in (*w.rows.fade_in, *w.rows.fade_out)}
        for border in sorted(borders):
            if 32 <= border < len(energy) - 32:
                at.append(energy[border])
                near += [energy[border + away] for away in (-32, -16, 16, 32)]
    return float(np.mean(at)), float(np.mean(near))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.post_processing")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("lpips", type=Path)
    parser.add_argument("--large", type=Path)
    parser.add_argument("--tune", type=int, default=0)
    parser.add_argument("--count", type=int, default=24)
    options = parser.parse_args()
    lpips = Lpips.load(options.lpips)

    def distances(a: Pixels, b: Pixels) -> tuple[float, float]:
        x, y = (
            torch.from_numpy(np.array(each)).permute(2, 0, 1)[None].float() / 127.5 - 1
            for each in (a, b)
        )
        with torch.inference_mode():
            return float(lpips(x, y)), structure_and_texture(lpips, x, y)

    def psnr(a: Pixels, b: Pixels) -> float:
        return float(10 * np.log10(255**2 / np.square(a.astype(np.float64) - b).mean()))

    for target in TARGETS:
        figures: dict[str, list[tuple[float, ...]]] = {}
        paths = [p for p in options.pictures.iterdir() if p.suffix.lower() in image.EXTENSIONS]
        for path in sorted(paths)[: options.count]:
            picture = Image.open(path).convert("RGB")
            original = np.asarray(picture)
            encoded = api.encode(picture, bpp=target, model=MODEL)
            data, point = encoded.data, encoded.point
            files = {"base": data, "vector": data, "neutral": neutral(data)}
            if options.tune:
                quality = 100 * point / (families.load_walk(MODEL).rate_points - 1)
                files["tuned"] = api.encode(
                    picture, quality=quality, model=MODEL, tune=options.tune
                ).data
            for name, each in files.items():
                steps = 0 if name == "base" else None
                pixels = api.decode(each, Decoding(steps=steps)).picture.pixels
                payload = box.read(each).chunk(ChunkType.SYNTAX) or b""
                row = psnr(pixels, original), *distances(pixels, original), len(payload)
                figures.setdefault(name, []).append(row)
        for name, rows in figures.items():
            means = np.mean(rows, 0)
            print(
                f"{target} {name:8} PSNR {means[0]:.3f}, LPIPS {means[1]:.4f}, "
                f"structure and texture {means[2]:.4f}, "
                f"vector {means[3]:.1f} bytes, at most {max(row[3] for row in rows)}",
                flush=True,
            )
    if options.large:
        picture = Image.open(options.large).convert("RGB")
        data = api.encode(picture, bpp=0.1, model=MODEL).data
        base, restored = (
            api.decode(data, Decoding(steps=steps)).picture.pixels.astype(np.float64)
            for steps in (0, None)
        )
        at, near = seams(restored - base)
        print(f"{picture.size}: gradients at borders {at:.3f}, beside {near:.3f}, {at / near:.4f}")


if __name__ == "__main__":
    main()
