"""Where training of the small presets starts: the Karhunen-Loève transform of photographs.

A transform codec with a KLT of 16x16 blocks is what the linear halves of g_a and of the context
pyramid form at first; the networks beside them start at zero and learn what it leaves. Without it,
the hours that a laptop has go into rediscovering it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from cdcodec.families.cdc.network import CdcNetwork
from cdcodec.nn.klt import karhunen_loeve
from cdcodec.nn.losses import SCALES, SIGMA_MAX, SIGMA_MIN

BLOCK = 16
STEP_SQUARED = 1.6e-3
"""lambda times the square of the quantiser step that suits it, for an orthonormal transform: the
slope of the high-rate model D = step^2/12, 6 dB a bit, on three channels in -1..1."""


@torch.no_grad()
def initialise(network: CdcNetwork, blocks: NDArray[np.float32]) -> None:
    """Set the linear halves, gains and scales of a random network, in place.

    Args:
        network: Fresh from network.build.
        blocks: Some ten thousand blocks of photographs [n, 3 * 16 * 16] in -1..1, channel first.
    """
    config = network.config
    mean, deviation, basis = karhunen_loeve(blocks, config.y_channels)
    # y in units in which the context network meets numbers near one.
    unit = np.maximum(deviation, 1.0)
    forward, backward = network.g_a.linear, network.context.linear
    assert forward.bias is not None
    assert backward.bias is not None
    forward.weight.copy_(_tensor((basis / unit).T)[:, :, None, None])
    forward.bias.copy_(_tensor(-(mean @ basis) / unit))
    backward.weight.copy_(_tensor(basis * unit)[:, :, None, None])
    backward.bias.copy_(_tensor(mean))
    for head in (network.g_a.head, network.denoiser.head):
        head.weight.zero_()
        assert head.bias is not None
        head.bias.zero_()
    low, high = config.lambda_range
    ladder = low * (high / low) ** torch.linspace(0, 1, config.anchors)
    step_gain = 0.5 * torch.log(ladder / STEP_SQUARED)
    network.gains.log_gain.copy_(step_gain[:, None] + _tensor(np.log(unit))[None])
    middle = math.exp(float(step_gain[config.anchors // 2]))
    index = np.log(np.maximum(deviation * middle, SIGMA_MIN) / SIGMA_MIN)
    index *= (SCALES - 1) / math.log(SIGMA_MAX / SIGMA_MIN)
    last = network.h_s.conv3
    assert last.bias is not None
    last.weight.mul_(0.1)
    last.bias[: config.y_channels] = 0.0
    last.bias[config.y_channels :] = _tensor(index)


def _tensor(array: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()
