"""The Karhunen-Loève transform of blocks of photographs: a start for transforms to learn from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def karhunen_loeve(
    blocks: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (mean [D], deviations [count], basis [D, count]) of blocks [n, D], largest first."""
    mean = blocks.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(blocks.T))
    order = np.argsort(-values)[:count]
    return mean, np.sqrt(np.maximum(values[order], 0)), vectors[:, order]


def photograph_blocks(batches: Callable[[], Tensor], side: int, count: int) -> NDArray[np.float32]:
    """Collect at least count blocks [n, 3 * side * side] of batches of crops, channel first."""
    blocks: list[Tensor] = []
    while sum(map(len, blocks)) < count:
        patches = F.pixel_unshuffle(batches().cpu(), side)
        blocks.append(patches.permute(0, 2, 3, 1).flatten(0, 2))
    return torch.cat(blocks).numpy()
