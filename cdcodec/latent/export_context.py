"""From the trained h_s and context model to the integer networks that decide bits, and back.

A weight file holds these networks as integers only. Going back and forth changes nothing: exporting
what was exported gives the same file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdcodec.entropy.context import MEAN_LIMIT, MEAN_ONE, ExactContext, ExactSlice
from cdcodec.entropy.exact import ExactLayer, ExactNet
from cdcodec.entropy.quantise import dequantise, quantise
from cdcodec.latent.walk import Codebook
from cdcodec.nn.context import HyperSynthesis, SpaceChannelContext
from cdcodec.nn.losses import SCALES

ACTIVATION_UNIT = 1 / 1024
ACTIVATION_LIMIT = 2**20 - 1
"""Activations and planes run to 1024 in steps of 1/1024: no calibration is needed."""

Y_LIMIT = 2**16 - 1
"""Contexts clip y_hat to this, 1024 in units of 1/64; trained networks stay far within it."""

CODE_UNIT = 1 / 256
"""Unit of the codebook's vectors, which are held in 16 bits."""

CODE_LIMIT = 2**15 - 1

Z_LIMIT = 255
"""h_s clips z to this, where the hyper-latent is integers and no index."""

_Array = NDArray[np.float64]


def exact_codebook(vectors: Tensor, points: int) -> Codebook:
    """Return the codebook [K, N] in fixed point; vectors beyond ±128 are clipped."""
    scaled = np.rint(vectors.detach().double().cpu().numpy() / CODE_UNIT)
    return Codebook(np.clip(scaled, -CODE_LIMIT, CODE_LIMIT).astype(np.int16), points)


def float_codebook(codebook: Codebook) -> Tensor:
    """Return the vectors [K, N] that exact_codebook would turn into this codebook."""
    return torch.from_numpy(codebook.vectors.astype(np.float32) * np.float32(CODE_UNIT))


def exact_h_s(h_s: HyperSynthesis, points: int, *, unit: float, limit: int) -> ExactNet:
    """Return the integer h_s.

    Args:
        h_s: The float one, whose last input is the rate position in 0..1.
        points: Rate points; the last input of the integer one is the point's number.
        unit: Real value of 1 in the other inputs: CODE_UNIT for a codebook, 1 for z.
        limit: Bound of the other inputs: CODE_LIMIT or Z_LIMIT.

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    last = len(h_s.conv1.weight[0]) - 1
    layers: list[ExactLayer] = []
    for conv in (h_s.conv1, h_s.conv2, h_s.conv3):
        weight, bias = _parameters(conv)
        final = conv is h_s.conv3
        if not layers:
            weight[:, last] *= _point_unit(points) / unit
        layers.append(
            _layer(
                weight,
                bias,
                input_limit=ACTIVATION_LIMIT if layers else limit,
                unit_in=ACTIVATION_UNIT if layers else unit,
                low=-ACTIVATION_LIMIT if final else 0,
                upsample=1 if final else 2,
            )
        )
    return ExactNet(tuple(layers), limit)


def float_h_s(net: ExactNet, points: int, *, unit: float) -> dict[str, Tensor]:
    """Return the state dict of the h_s that exact_h_s would turn into this network."""
    state: dict[str, Tensor] = {}
    for number, layer in enumerate(net.layers):
        weight, bias = _floats(layer, ACTIVATION_UNIT if number else unit)
        if not number:
            weight[:, -1] /= _point_unit(points) / unit
        state.update(_tensors(f"conv{number + 1}", weight, bias))
    return state


def exact_context(context: SpaceChannelContext) -> ExactContext:
    """Return the integer context model.

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    slices = []
    for k, own in enumerate(context.config.slices):
        slices.append(
            ExactSlice(
                channel=_planes(context.channel[k - 1]) if k else None,
                anchor=_head(context.anchor[k], own),
                local=_planes(context.local[k]),
                nonanchor=_head(context.nonanchor[k], own),
            )
        )
    return ExactContext(tuple(slices), context.config.hyper)


def float_context(exact: ExactContext) -> dict[str, Tensor]:
    """Return the state dict of the context model that exact_context would turn into this one."""
    state: dict[str, Tensor] = {}
    for k, own in enumerate(exact.slices):
        units = {"channel": 1 / MEAN_ONE, "local": 1 / MEAN_ONE}
        for name, net in own.named().items():
            assert isinstance(net, ExactNet), "exact_context makes no graphs"
            unit = units.get(name, ACTIVATION_UNIT)
            for i, layer in enumerate(net.layers):
                final = i == len(net.layers) - 1
                outputs = _head_units(own.channels) if final and name not in units else None
                weight, bias = _floats(layer, unit, outputs)
                number = k - 1 if name == "channel" else k
                # Convolutions are every second of a Sequential; local is a convolution by itself.
                where = f"{name}.{number}" if name == "local" else f"{name}.{number}.{2 * i}"
                state.update(_tensors(where, weight, bias))
                unit = ACTIVATION_UNIT
    return state


def _point_unit(points: int) -> float:
    """Return by how much the rate position rises from one point to the next."""
    return 1 / max(points - 1, 1)


def _planes(network: nn.Module) -> ExactNet:
    """Return the integers of convolutions from y_hat to planes, with a ReLU between any two."""
    convs = _convolutions(network)
    layers = [
        _layer(
            *_parameters(conv),
            input_limit=ACTIVATION_LIMIT if i else Y_LIMIT,
            unit_in=ACTIVATION_UNIT if i else 1 / MEAN_ONE,
            low=0 if i < len(convs) - 1 else -ACTIVATION_LIMIT,
        )
        for i, conv in enumerate(convs)
    ]
    return ExactNet(tuple(layers), Y_LIMIT)


def _head(network: nn.Module, channels: int) -> ExactNet:
    """Return the integers of a pointwise network from planes to means and table indices."""
    *hidden, last = _convolutions(network)
    layers = [
        _layer(
            *_parameters(conv),
            input_limit=ACTIVATION_LIMIT,
            unit_in=ACTIVATION_UNIT,
            low=0,
        )
        for conv in hidden
    ]
    low = np.repeat([-MEAN_LIMIT, 0], channels).astype(np.int32)
    high = np.repeat([MEAN_LIMIT, SCALES - 1], channels).astype(np.int32)
    layers.append(
        quantise(
            *_parameters(last),
            input_limit=ACTIVATION_LIMIT,
            unit_in=ACTIVATION_UNIT,
            unit_out=_head_units(channels),
            low=low,
            high=high,
        )
    )
    return ExactNet(tuple(layers), ACTIVATION_LIMIT)


def _head_units(channels: int) -> _Array:
    """Real values of 1 in what a pointwise network gives: means, then indices."""
    return np.repeat([1 / MEAN_ONE, 1.0], channels)


def _layer(
    weight: _Array, bias: _Array, *, input_limit: int, unit_in: float, low: int, upsample: int = 1
) -> ExactLayer:
    """Return a layer that gives activations; see quantise."""
    return quantise(
        weight,
        bias,
        input_limit=input_limit,
        unit_in=unit_in,
        unit_out=np.full(len(bias), ACTIVATION_UNIT),
        low=np.full(len(bias), low, np.int32),
        high=np.full(len(bias), ACTIVATION_LIMIT, np.int32),
        upsample=upsample,
    )


def _convolutions(network: nn.Module) -> Sequence[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def _parameters(conv: nn.Conv2d) -> tuple[_Array, _Array]:
    assert conv.bias is not None
    return conv.weight.detach().double().cpu().numpy(), conv.bias.detach().double().cpu().numpy()


def _floats(
    layer: ExactLayer, unit_in: float, unit_out: _Array | None = None
) -> tuple[_Array, _Array]:
    units = np.full(len(layer.bias), ACTIVATION_UNIT) if unit_out is None else unit_out
    return dequantise(layer, unit_in=unit_in, unit_out=units)


def _tensors(name: str, weight: _Array, bias: _Array) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.from_numpy(weight).float(),
        f"{name}.bias": torch.from_numpy(bias).float(),
    }
