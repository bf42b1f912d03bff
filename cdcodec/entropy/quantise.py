"""From a float convolution to an integer layer and back.

Weights have 16 bits and a scale per output channel. Only training uses this; what it makes is
stored, and never made again by a reader.
"""

from __future__ import annotations

import math

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


def split_phases(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the convolution that, with a pixel shuffle, upsamples by 2 as a transposed one does.

    Its weight [I, O, 5, 5] belongs to stride 2, padding 2 and output padding 1. Result
    [4 O, I, 3, 3]: output 2m + p takes tap k of it from input m + (p + 2 - k) / 2, where that is
    whole.
    """
    inputs, outputs = weight.shape[:2]
    taps = np.pad(weight, ((0, 0), (0, 0), (0, 1), (0, 1)))  # to three of either parity
    taps = taps.reshape(inputs, outputs, 3, 2, 3, 2)[:, :, ::-1, :, ::-1]
    return taps.transpose(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 3, 3)


def gelu_curve(unit: float) -> NDArray[np.int32]:
    """Return the curve of exact_graph.Bend that makes a GELU of integers in a unit.

    That is a Phi(-a) for a = 0, unit, 2 unit, ... until it rounds to 0, Phi the normal
    distribution.
    """
    arguments = [i * unit for i in range(round(8 / unit))]
    values = [a * math.erfc(a / math.sqrt(2)) / 2 / unit for a in arguments]
    curve = np.rint(values).astype(np.int32)
    return curve[: int(np.flatnonzero(curve)[-1]) + 2]
