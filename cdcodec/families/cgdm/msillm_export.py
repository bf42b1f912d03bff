"""From the networks of MS-ILLM to a weight file that encodes and decodes, and back.

The file holds all of the network, under the checkpoint's names. In float32 it is what the authors
published to the bit. Beside it lie the tables and the two integer networks that decide bits:

    z ──+ median──► [conv5 ↑2, ReLU] ──► [conv5 ↑2, ReLU] ──► conv3 ──► mean, or scale

A transposed convolution of stride 2 is a convolution to four times the channels and a pixel
shuffle.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from cdcodec.errors import WeightsError
from cdcodec.families.cgdm.config import FAMILY, MSILLM
from cdcodec.families.cgdm.msillm_network import MsIllmConfig, MsIllmNetwork
from cdcodec.families.cgdm.msillm_walk import MEAN_ONE, MsIllmWalk, is_msillm
from cdcodec.nn.prior import FactorizedPrior

Z_LIMIT = 255
"""The integer networks clip z to this; trained networks stay far within it."""

ACTIVATION_UNIT = 1 / 4096
ACTIVATION_LIMIT = 2**22 - 1
"""Activations run to 1024 in steps of 1/4096."""

SCALE_ONE = 1024
"""Scales are in units of 1/1024; the finest step between two tables has 15 of them."""

_Array = NDArray[np.float64]


def pack(network: MsIllmNetwork, licence: str, dtype: torch.dtype = torch.float32) -> bytes:
    """Return the weight file of a network. Packing what was read from one gives it again.

    Args:
        network: What to write.
        licence: Terms of the weights, which the file itself then says.
        dtype: Of the stored networks; float16 halves the file, and changes pixels a little.

    Raises:
        WeightsError: If weights are too large for dtype, or to be exact.
    """
    stored = {
        name: tensor.detach().cpu().to(dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }
    for name, tensor in stored.items():
        if not tensor.isfinite().all():
            raise WeightsError(
                f"{name} is not finite, or beyond {str(dtype).removeprefix('torch.')}"
            )
    walk = walk_of(_filled(network.config, stored))  # of what a reader will have
    arrays: dict[str, NDArray[Any]] = {name: tensor.numpy() for name, tensor in stored.items()}
    return weight_file.pack({**arrays, **walk.arrays()}, describe(network.config, licence))


def read(path: Path) -> MsIllmNetwork:
    """Read a weight file; the network is in float32, whatever the file is in.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    if not is_msillm(path):
        raise WeightsError(f"weights {path.name} are not those of an MS-ILLM")
    config = parse(weight_file.read_metadata(path))
    try:
        return _filled(config, weight_file.read_floats(path))
    except RuntimeError as error:
        raise WeightsError(f"weights {path.name} do not fit their configuration") from error


def describe(config: MsIllmConfig, licence: str) -> str:
    """Return a weight file's metadata."""
    table = {
        "family": FAMILY,
        "preset": MSILLM,
        "config": dataclasses.asdict(config),
        "licence": licence,
    }
    return json.dumps(table, sort_keys=True)


def parse(metadata: str) -> MsIllmConfig:
    """Return the configuration in metadata whose preset is MSILLM.

    Raises:
        WeightsError: If there is none.
    """
    try:
        values: dict[str, Any] = dict(json.loads(metadata)["config"])
        return MsIllmConfig(**{**values, "widths": tuple(values["widths"])})
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError("weight file does not hold an MsIllmConfig") from error


def walk_of(network: MsIllmNetwork) -> MsIllmWalk:
    """Build tables, thresholds and the integer networks.

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    gaussians = gaussian_tables()
    prior = network.hyper_bottleneck.prior()
    between = [gaussian_sigma(i + 0.5, len(gaussians)) for i in range(len(gaussians) - 1)]
    thresholds = np.rint(np.array(between) * SCALE_ONE).astype(np.int32)
    medians = prior.medians.detach().double().numpy().ravel()
    mean_limit = MAX_MAGNITUDE * MEAN_ONE
    return MsIllmWalk.build(
        concatenate(gaussians, _tables_of_z(prior)),
        _exact(network.hyper_synthesis_mean, medians, 1 / MEAN_ONE, -mean_limit, mean_limit),
        _exact(network.hyper_synthesis_scale, medians, 1 / SCALE_ONE, 0, int(thresholds[-1])),
        thresholds,
    )


def _filled(config: MsIllmConfig, tensors: dict[str, torch.Tensor]) -> MsIllmNetwork:
    """Return a network that has the tensors' values in float32."""
    with torch.device("meta"):  # no time for random numbers that are overwritten at once
        network = MsIllmNetwork(config)
    single = {name: tensor.float() for name, tensor in tensors.items()}
    network.load_state_dict(single, strict=True, assign=True)
    return network


def _exact(
    synthesis: nn.Sequential, medians: _Array, unit_out: float, low: int, high: int
) -> ExactNet:
    """Return a hyper synthesis as an integer network of z."""
    first, _, second, _, last = synthesis
    # The medians come before all else, so that the zeros around z_hat are zeros of z_hat.
    identity = np.eye(len(medians))[:, :, None, None]
    layers = (
        _layer(identity, medians, input_limit=Z_LIMIT, unit_in=1.0),
        _doubling(first),
        _doubling(second),
        _layer(*_parameters(last), unit_out=unit_out, low=low, high=high),
    )
    return ExactNet(layers, Z_LIMIT)


def _doubling(conv: nn.Module) -> ExactLayer:
    """Return the layer of a transposed convolution with its ReLU."""
    weight, bias = _parameters(conv)
    return _layer(split_phases(weight), np.repeat(bias, 4), low=0, upsample=2)


def _layer(
    weight: _Array,
    bias: _Array,
    *,
    input_limit: int = ACTIVATION_LIMIT,
    unit_in: float = ACTIVATION_UNIT,
    unit_out: float = ACTIVATION_UNIT,
    low: int = -ACTIVATION_LIMIT,
    high: int = ACTIVATION_LIMIT,
    upsample: int = 1,
) -> ExactLayer:
    """See quantise; here units and bounds are the same for all channels."""
    return quantise(
        weight,
        bias,
        input_limit=input_limit,
        unit_in=unit_in,
        unit_out=np.full(len(bias), unit_out),
        low=np.full(len(bias), low, np.int32),
        high=np.full(len(bias), high, np.int32),
        upsample=upsample,
    )


def _parameters(conv: nn.Module) -> tuple[_Array, _Array]:
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    assert conv.bias is not None
    return conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()


def _tables_of_z(prior: FactorizedPrior) -> Tables:
    """Make one table for each channel, of the symbols that are worth a unit of frequency."""
    pmfs = []
    for row in prior.pmf(-Z_LIMIT, Z_LIMIT):
        kept = np.flatnonzero(row >= min(1 / TOTAL, row.max()))
        pmfs.append((int(kept[0]) - Z_LIMIT, row[kept[0] : kept[-1] + 1]))
    return tables_from_pmf(pmfs)
