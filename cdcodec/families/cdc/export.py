"""From the trained float network to a weight file, and back.

The file holds the networks in float16, but for h_s, which it holds as the integer network that
decides bits, beside the tables.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cdcodec import weight_file
from cdcodec.entropy.exact import ExactLayer, ExactNet
from cdcodec.entropy.quantise import dequantise, quantise
from cdcodec.entropy.tables import MAX_MAGNITUDE, gaussian_tables
from cdcodec.families.cdc.config import CdcConfig, describe, parse
from cdcodec.families.cdc.network import CdcNetwork, build
from cdcodec.families.cdc.transforms import HyperSynthesis
from cdcodec.families.cdc.walk import MEAN_ONE, CdcWalk

Z_LIMIT = 255
"""h_s clips z to this; trained networks stay far within it."""

ACTIVATION_UNIT = 1 / 1024
ACTIVATION_LIMIT = 2**20 - 1
"""Activations of h_s run to 1024 in steps of 1/1024: no calibration is needed."""


def write(network: CdcNetwork, path: Path) -> None:
    """Write a weight file, whole or not at all. Writing what was read gives the same file.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
        WeightsError: If h_s has weights too large to be exact.
    """
    walk = walk_of(network)
    halves = weight_file.halves(network, without=("h_s.",))
    weight_file.write(path, {**halves, **walk.arrays()}, describe(network.config))


def read(path: Path) -> CdcNetwork:
    """Read a weight file, to decode with or to train on.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    config = parse(weight_file.read_metadata(path), CdcConfig)
    network = build(config)  # on the meta device it would take torch a second of imports
    tensors = {name: tensor.float() for name, tensor in weight_file.read_floats(path).items()}
    weight_file.fill(network, tensors | float_h_s(CdcWalk.load(path)), path)
    return network


def walk_of(network: CdcNetwork) -> CdcWalk:
    """Build tables, z indices and the integer h_s of a trained network.

    Raises:
        WeightsError: If h_s has weights too large to be exact.
    """
    tables = gaussian_tables()
    points = torch.linspace(0, 1, network.config.points)
    # Rounded as the weight file will have them: exporting what was exported gives the same file.
    gains = copy.deepcopy(network.gains).half().float()
    with torch.no_grad():
        _, z_index = gains(points)
    z_table = z_index[:, :, 0, 0].round().clamp(0, len(tables) - 1).to(torch.uint8).numpy()

    latent = network.config.y_channels
    mean_limit = MAX_MAGNITUDE * MEAN_ONE
    hidden = np.array(0), np.array(ACTIVATION_LIMIT)
    last = np.repeat([-mean_limit, 0], latent), np.repeat([mean_limit, len(tables) - 1], latent)
    bounds = (hidden, hidden, last)
    layers: list[ExactLayer] = []
    for conv, units, (low, high) in zip(
        _convolutions(network.h_s), _units(latent), bounds, strict=True
    ):
        assert conv.bias is not None
        layers.append(
            quantise(
                conv.weight.detach().double().numpy(),
                conv.bias.detach().double().numpy(),
                input_limit=ACTIVATION_LIMIT if layers else Z_LIMIT,
                unit_in=units[0],
                unit_out=np.broadcast_to(units[1], conv.out_channels),
                low=np.broadcast_to(low, conv.out_channels).astype(np.int32),
                high=np.broadcast_to(high, conv.out_channels).astype(np.int32),
                upsample=2 if len(layers) < 2 else 1,
            )
        )
    return CdcWalk.build(tables, z_table, ExactNet(tuple(layers), Z_LIMIT))


def float_h_s(walk: CdcWalk) -> dict[str, torch.Tensor]:
    """Return the state dict of the h_s that walk_of would turn into this walk's.

    A weight file holds h_s as integers only, which are finer than float16 would be.
    """
    state = {}
    units = _units(len(walk.h_s.layers[-1].bias) // 2)
    for number, (layer, (unit_in, unit_out)) in enumerate(zip(walk.h_s.layers, units, strict=True)):
        weight, bias = dequantise(
            layer, unit_in=unit_in, unit_out=np.broadcast_to(unit_out, len(layer.bias))
        )
        state[f"h_s.conv{number + 1}.weight"] = torch.from_numpy(weight).float()
        state[f"h_s.conv{number + 1}.bias"] = torch.from_numpy(bias).float()
    return state


def _convolutions(h_s: HyperSynthesis) -> tuple[nn.Conv2d, ...]:
    return h_s.conv1, h_s.conv2, h_s.conv3


def _units(latent: int) -> tuple[tuple[float, NDArray[np.float64]], ...]:
    """Real values of an input and of the outputs of 1, for each layer of h_s."""
    hidden = np.array(ACTIVATION_UNIT)
    return (
        (1.0, hidden),
        (ACTIVATION_UNIT, hidden),
        (ACTIVATION_UNIT, np.repeat([1 / MEAN_ONE, 1.0], latent)),
    )
