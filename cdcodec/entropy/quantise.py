"""From a float convolution to an integer layer and back.

Weights have 16 bits and a scale per output channel. Only training uses this; what it makes is
stored, and never made again by a reader.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdcodec.entropy.exact import ExactLayer

WEIGHT_LIMIT = 2**15 - 1
PRODUCT_LIMIT = 2**62
MULTIPLIER_LIMIT = 2**31 - 1

OFFSET_BITS = 20
"""Significant bits of a bias: few enough to survive the way back through float32."""


def quantise(
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    *,
    input_limit: int,
    unit_in: float,
    unit_out: NDArray[np.float64],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    upsample: int = 1,
) -> ExactLayer:
    """Return the integer layer that does what a zero-padded convolution does.

    Args:
        weight: [O, I, k, k].
        bias: [O].
        input_limit: Bound of the integers that go in.
        unit_in: Real value of an input of 1.
        unit_out: Real value of an output of 1, per output channel [O].
        low: Bounds of the output integers [O]; 0 is a ReLU.
        high: Likewise.
        upsample: Factor of the pixel shuffle that follows.
    """
    largest = np.abs(weight).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest, 1.0) / WEIGHT_LIMIT
    integers = np.rint(weight / scale[:, None, None, None]).astype(np.int16)
    exact_offsets = bias / (scale * unit_in)
    grain = 2.0 ** np.maximum(0, np.ceil(np.log2(np.abs(exact_offsets) + 1)) - OFFSET_BITS)
    offsets = (np.rint(exact_offsets / grain) * grain).astype(np.int64)
    bounds = input_limit * np.abs(integers.astype(np.int64)).sum(axis=(1, 2, 3)) + np.abs(offsets)
    # The larger the shift, the finer the multipliers; products must stay within 63 bits.
    factor = scale * unit_in / unit_out
    shift = 62
    while shift > 0:
        multiplier = np.rint(factor * 2.0**shift)
        products = bounds.astype(np.float64) * multiplier
        if multiplier.max() <= MULTIPLIER_LIMIT and products.max() < PRODUCT_LIMIT:
            break
        shift -= 1
    return ExactLayer(
        weight=integers,
        bias=offsets,
        multiplier=np.rint(factor * 2.0**shift).astype(np.int32),
        shift=shift,
        low=low,
        high=high,
        upsample=upsample,
    )


def dequantise(
    layer: ExactLayer, *, unit_in: float, unit_out: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight and bias of the convolution that quantise would turn into this layer."""
    scale = layer.multiplier / 2.0**layer.shift * unit_out / unit_in
    return layer.weight * scale[:, None, None, None], layer.bias * scale * unit_in
