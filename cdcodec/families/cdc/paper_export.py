"""From the network at the paper's scale to a weight file that encodes and decodes, and back.

The file holds all of the network in float32, so that it is what the authors published to the bit:
unlike bundled files it doesn't travel, and its size matters little. Beside it lie the tables and
the integer network that decide bits:

    z ──+ median──► [conv5 ↑2, leaky ReLU] ──► [conv5 ↑2, leaky ReLU] ──► conv3 ──► mean, scale

A transposed convolution of stride 2 is a convolution to four times the channels and a pixel
shuffle. A leaky ReLU is a layer that keeps the positive part of a and of -a, and one that takes
0.2 of the second from the first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from cdcodec import weight_file
from cdcodec.entropy.exact import ExactLayer, ExactNet
from cdcodec.entropy.quantise import quantise, split_phases
from cdcodec.entropy.tables import (
    MAX_MAGNITUDE,
    TOTAL,
    Tables,
    concatenate,
    gaussian_sigma,
    gaussian_tables,
    tables_from_pmf,
)
from cdcodec.families.cdc import config
from cdcodec.families.cdc.export import Z_LIMIT
from cdcodec.families.cdc.paper import LEAK, PaperCdc, PaperConfig
from cdcodec.families.cdc.walk import MEAN_ONE, CdcWalk
from cdcodec.nn.prior import FactorizedPrior

ACTIVATION_UNIT = 1 / 4096
ACTIVATION_LIMIT = 2**22 - 1
"""Activations of h_s run to 1024 in steps of 1/4096: there are four layers more than in export."""

SCALE_ONE = 1024
"""Scales are in units of 1/1024; the finest step between two tables has 15 of them."""

_Array = NDArray[np.float64]


def pack(network: PaperCdc) -> bytes:
    """Return the weight file of a network.

    Raises:
        WeightsError: If h_s has weights too large to be exact.
    """
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    description = config.describe(network.config, config.PAPER)
    return weight_file.pack({**tensors, **walk_of(network).arrays()}, description)


def read(path: Path) -> PaperCdc:
    """Read a weight file.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    sizes = config.parse(weight_file.read_metadata(path), PaperConfig)
    with torch.device("meta"):  # no time for random numbers that are overwritten at once
        network = PaperCdc(sizes)
    weight_file.fill(network, weight_file.read_floats(path), path)
    return network


def walk_of(network: PaperCdc) -> CdcWalk:
    """Build tables, thresholds and the integer h_s of a network.

    Raises:
        WeightsError: If h_s has weights too large to be exact.
    """
    gaussians = gaussian_tables()
    prior, h_s = network.compressor.prior, network.compressor.h_s
    tables = concatenate(gaussians, _tables_of_z(prior))
    z_index = np.arange(len(gaussians), len(tables), dtype=np.uint16)[None]
    between = [gaussian_sigma(i + 0.5, len(gaussians)) for i in range(len(gaussians) - 1)]
    thresholds = np.rint(np.array(between) * SCALE_ONE).astype(np.int32)

    latent = len(z_index[0])
    mean_limit = MAX_MAGNITUDE * MEAN_ONE
    first, second, last = h_s.layers
    assert isinstance(first, nn.ConvTranspose2d)
    assert isinstance(second, nn.ConvTranspose2d)
    assert isinstance(last, nn.Conv2d)
    # The medians come before all else, so that the zeros around z_hat are zeros of z_hat.
    medians = prior.medians.detach().double().numpy().ravel()
    layers = [
        _layer(_pointwise(np.eye(latent)), medians, input_limit=Z_LIMIT, unit_in=1.0),
        *_upsampling(first),
        *_upsampling(second),
        _layer(
            *_parameters(last),
            unit_out=np.repeat([1 / MEAN_ONE, 1 / SCALE_ONE], latent),
            low=np.repeat([-mean_limit, 0], latent),
            high=np.repeat([mean_limit, thresholds[-1]], latent),
        ),
    ]
    return CdcWalk.build(tables, z_index, ExactNet(tuple(layers), Z_LIMIT), thresholds)


def _upsampling(conv: nn.ConvTranspose2d) -> list[ExactLayer]:
    """Return the layers of a transposed convolution with its leaky ReLU."""
    weight, bias = _parameters(conv)
    one = np.eye(len(bias))
    return [
        _layer(split_phases(weight), np.repeat(bias, 4), upsample=2),
        _layer(_pointwise(np.concatenate([one, -one])), np.zeros(2 * len(one)), low=0),
        _layer(_pointwise(np.concatenate([one, -LEAK * one], axis=1)), np.zeros(len(one))),
    ]


def _layer(
    weight: _Array,
    bias: _Array,
    *,
    input_limit: int = ACTIVATION_LIMIT,
    unit_in: float = ACTIVATION_UNIT,
    unit_out: ArrayLike = ACTIVATION_UNIT,
    low: ArrayLike = -ACTIVATION_LIMIT,
    high: ArrayLike = ACTIVATION_LIMIT,
    upsample: int = 1,
) -> ExactLayer:
    """See quantise; what is the same for all channels may be a single number."""
    return quantise(
        weight,
        bias,
        input_limit=input_limit,
        unit_in=unit_in,
        unit_out=np.broadcast_to(np.asarray(unit_out, np.float64), bias.shape),
        low=np.broadcast_to(np.asarray(low, np.int32), bias.shape),
        high=np.broadcast_to(np.asarray(high, np.int32), bias.shape),
        upsample=upsample,
    )


def _pointwise(matrix: _Array) -> _Array:
    return matrix[:, :, None, None]


def _parameters(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[_Array, _Array]:
    assert conv.bias is not None
    return conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()


def _tables_of_z(prior: FactorizedPrior) -> Tables:
    """Make one table for each channel, of the symbols that are worth a unit of frequency."""
    pmfs = []
    for row in prior.pmf(-Z_LIMIT, Z_LIMIT):
        kept = np.flatnonzero(row >= min(1 / TOTAL, row.max()))
        pmfs.append((int(kept[0]) - Z_LIMIT, row[kept[0] : kept[-1] + 1]))
    return tables_from_pmf(pmfs)
