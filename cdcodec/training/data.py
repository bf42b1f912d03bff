"""Training photographs: decoded once into memory, cropped from there."""

from __future__ import annotations

import glob
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cdcodec.errors import InputError

SUFFIXES = {".webp", ".png", ".jpg", ".jpeg"}


def find(pattern: str, smallest: int) -> list[np.ndarray]:
    """Decode every photograph of a folder or glob to uint8 [H, W, 3].

    Args:
        pattern: A folder or a glob.
        smallest: Photographs with a shorter side below this many pixels are left out.

    Raises:
        InputError: If there is no such folder, no photograph in it, or none that is large enough,
            or if one can't be read.
    """
    folder = Path(pattern)
    found = sorted(folder.iterdir()) if folder.is_dir() else [Path(n) for n in glob.glob(pattern)]
    names = [name for name in found if name.suffix.lower() in SUFFIXES]
    if not names:
        raise _nothing(pattern, found)
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(_decode, names))
    images = [image for image in images if min(image.shape[:2]) >= smallest]
    if not images:
        raise InputError(
            f"no photograph of {len(names)} in {pattern} is large enough",
            hint=f"the recipe needs at least {smallest} pixels on each side",
        )
    return images


def _nothing(pattern: str, found: list[Path]) -> InputError:
    """Return what to raise where there are no photographs."""
    kinds = "photographs are PNG, JPEG or WebP files"
    if found or Path(pattern).is_dir():
        deeper = any(path.is_dir() for path in found)
        below = f"; for those in its subfolders: --data '{Path(pattern) / '*' / '*'}'"
        hint = kinds + (below if deeper else "")
        return InputError(f"there are no photographs in {pattern}", hint=hint)
    if glob.has_magic(pattern):
        return InputError(f"no file matches {pattern}", hint=kinds)
    return InputError(f"there is no folder {pattern}")


def _decode(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the photograph {path}: {error}") from error


class Crops:
    """Endless random crops and flips."""

    def __init__(self, images: list[np.ndarray], crop: int, seed: int) -> None:
        self.images = images
        self.crop = crop
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Draw from here on as a new object with this seed would."""
        self.random = np.random.default_rng(seed)

    def batch(self, count: int) -> Tensor:
        """Return [count, 3, crop, crop] in -1..1, channels last in memory."""
        out = np.empty((count, self.crop, self.crop, 3), np.uint8)
        for slot in out:
            image = self.images[self.random.integers(len(self.images))]
            top = self.random.integers(image.shape[0] - self.crop + 1)
            left = self.random.integers(image.shape[1] - self.crop + 1)
            patch = image[top : top + self.crop, left : left + self.crop]
            slot[:] = patch[:, ::-1] if self.random.random() < 0.5 else patch
        return torch.from_numpy(out).permute(0, 3, 1, 2).float() / 127.5 - 1
