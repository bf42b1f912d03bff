"""From the authors' hyper decoders and context models, in float, to the walk that decides bits.

Both h_s and the contexts become integer graphs: every convolution a chain of one layer, with the
activations and sums of `entropy.exact_graph` between them. A transposed convolution of stride 2 is
a convolution to four times the channels and a pixel shuffle. Nothing here is stored in float: the
weight file has the networks that were loaded besides, to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from cdcodec.entropy.context import MEAN_LIMIT, MEAN_ONE, ExactContext, ExactSlice
from cdcodec.entropy.exact import ExactNet
from cdcodec.entropy.exact_graph import LEAK_BITS, Add, Bend, ExactGraph, Leak, Node, Run
from cdcodec.entropy.quantise import gelu_curve, quantise, split_phases
from cdcodec.entropy.tables import (
    TOTAL,
    Tables,
    concatenate,
    gaussian_sigma,
    gaussian_tables,
    tables_from_pmf,
)
from cdcodec.latent.walk import Codebook, LatentWalk, Tabled
from cdcodec.nn.elic import INNER_LEAK, OUTER_LEAK, ResidualBlock, UpBlock
from cdcodec.nn.elic_context import PaperContext, SliceContext
from cdcodec.nn.prior import FactorizedPrior

ACTIVATION_UNIT = 1 / 4096
ACTIVATION_LIMIT = 2**22 - 1
"""Activations and planes run to 1024 in steps of 1/4096."""

SCALE_ONE = 1024
"""Scales are in units of 1/1024; the finest step between two tables has 15 of them."""

Y_LIMIT = 2**16 - 1
"""Contexts clip y_hat to this, 1024 in units of 1/64."""

Z_LIMIT = 255
"""h_s clips z to this."""

CODE_LIMIT = 2**15 - 1
"""The codebook's vectors are held in 16 bits."""

_Array = NDArray[np.float64]


def codebook_walk(vectors: Tensor, h_s: nn.Sequential, context: PaperContext) -> LatentWalk:
    """Build the walk of a model whose hyper-latent is indices of vectors [K, N] (RDEIC).

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    values = vectors.detach().double().cpu().numpy()
    unit = 2.0 ** math.ceil(math.log2(max(np.abs(values).max(), 2**-15) / CODE_LIMIT))
    program = _Program(values.shape[1], CODE_LIMIT, unit)
    last = 0
    for module in h_s:
        last = program.module(last, module)
    codebook = Codebook(np.rint(values / unit).astype(np.int16), points=1)
    exact = exact_context(context)
    return LatentWalk.build(gaussian_tables(), codebook, program.graph(), exact, thresholds())


def tabled_walk(prior: FactorizedPrior, h_s: nn.Sequential, context: PaperContext) -> LatentWalk:
    """Build the walk of a model whose hyper-latent is integers z under a prior (DiffEIC).

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    gaussians = gaussian_tables()
    tables = concatenate(gaussians, _tables_of_z(prior))
    index = np.arange(len(gaussians), len(tables), dtype=np.uint16)[None]
    program = _Program(prior.channels, Z_LIMIT, 1.0)
    # The medians come before all else, so that the zeros around z_hat are zeros of z_hat.
    medians = prior.medians.detach().double().cpu().numpy().ravel()
    last = program.conv(0, np.eye(prior.channels)[:, :, None, None], medians)
    for module in h_s:
        last = program.module(last, module)
    exact = exact_context(context)
    return LatentWalk.build(tables, Tabled(index), program.graph(), exact, thresholds())


def thresholds() -> NDArray[np.int32]:
    """Return the scales between neighbours among the Gaussian tables, in units of 1/1024."""
    between = [gaussian_sigma(i + 0.5) for i in range(len(gaussian_tables()) - 1)]
    scales: NDArray[np.int32] = np.rint(np.array(between) * SCALE_ONE).astype(np.int32)
    return scales


def exact_context(context: PaperContext) -> ExactContext:
    """Return the integer context model; its planes are in units of 1/4096, its scales of 1/1024.

    Raises:
        WeightsError: If weights are too large to be exact.
    """
    slices = []
    for channels, networks in zip(context.sizes, context.slices, strict=True):
        assert isinstance(networks, SliceContext)
        slices.append(
            ExactSlice(
                channel=None if networks.channel is None else _planes(networks.channel),
                anchor=_head(networks.anchor, channels),
                local=_planes(nn.Sequential(networks.local)),
                nonanchor=_head(networks.nonanchor, channels),
            )
        )
    first = context.slices[0]
    assert isinstance(first, SliceContext)
    return ExactContext(tuple(slices), _first_conv(first.anchor).in_channels)


@dataclass
class _Program:
    """A graph in the making.

    Attributes:
        channels: Of the input.
        limit: Bound of the input.
        unit: Real value of 1 in the input.
        nodes: So far; a node's number is its place in it, from 1.
    """

    channels: int
    limit: int
    unit: float
    nodes: list[Node] = field(default_factory=list)

    def graph(self) -> ExactGraph:
        """Return the graph, proved."""
        return ExactGraph(tuple(self.nodes), self.channels, self.limit)

    def conv(
        self,
        source: int,
        weight: _Array,
        bias: _Array,
        *,
        upsample: int = 1,
        unit_out: ArrayLike = ACTIVATION_UNIT,
        low: ArrayLike = -ACTIVATION_LIMIT,
        high: ArrayLike = ACTIVATION_LIMIT,
    ) -> int:
        """Add a convolution; see quantise. What is the same for all channels may be one number."""
        limit = ACTIVATION_LIMIT if source else self.limit
        layer = quantise(
            weight,
            bias,
            input_limit=limit,
            unit_in=ACTIVATION_UNIT if source else self.unit,
            unit_out=np.broadcast_to(np.asarray(unit_out, np.float64), bias.shape),
            low=np.broadcast_to(np.asarray(low, np.int32), bias.shape),
            high=np.broadcast_to(np.asarray(high, np.int32), bias.shape),
            upsample=upsample,
        )
        return self._add(Run(source, ExactNet((layer,), limit)))

    def module(self, source: int, module: nn.Module) -> int:
        """Add what a module of the float network does."""
        if isinstance(module, nn.Conv2d):
            return self.conv(source, *_parameters(module))
        if isinstance(module, nn.ConvTranspose2d):
            return self._transposed(source, module)
        if isinstance(module, nn.GELU):
            return self._add(Bend(source, gelu_curve(ACTIVATION_UNIT)))
        if isinstance(module, ResidualBlock):
            return self._residual(source, module)
        assert isinstance(module, UpBlock), type(module)
        return self._doubling(source, module)

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes)

    def _leak(self, source: int, slope: float) -> int:
        return self._add(Leak(source, round(slope * 2**LEAK_BITS)))

    def _transposed(self, source: int, conv: nn.ConvTranspose2d) -> int:
        weight, bias = _parameters(conv)
        if conv.stride == (2, 2):
            return self.conv(source, split_phases(weight), np.repeat(bias, 4), upsample=2)
        return self.conv(source, weight[:, :, ::-1, ::-1].swapaxes(0, 1), bias)

    def _residual(self, source: int, block: ResidualBlock) -> int:
        h = self._leak(self.module(source, block.conv1), INNER_LEAK)
        h = self._leak(self.module(h, block.conv2), INNER_LEAK)
        skip = source if isinstance(block.skip, nn.Identity) else self.module(source, block.skip)
        return self._add(Add(h, skip))

    def _doubling(self, source: int, block: UpBlock) -> int:
        h = self.conv(source, *_parameters(block.subpixel), upsample=2)
        h = self._leak(self.module(self._leak(h, INNER_LEAK), block.conv), OUTER_LEAK)
        return self._add(Add(h, self.conv(source, *_parameters(block.skip), upsample=2)))


def _planes(network: nn.Sequential) -> ExactGraph:
    """Return the integers of a network from y_hat to planes."""
    program = _Program(_first_conv(network).in_channels, Y_LIMIT, 1 / MEAN_ONE)
    last = 0
    for module in network:
        last = program.module(last, module)
    return program.graph()


def _head(network: nn.Sequential, channels: int) -> ExactGraph:
    """Return the integers of a pointwise network from planes to means, then scales.

    The float one gives scales first.
    """
    *hidden, final = network
    program = _Program(_first_conv(network).in_channels, ACTIVATION_LIMIT, ACTIVATION_UNIT)
    last = 0
    for module in hidden:
        last = program.module(last, module)
    weight, bias = (np.roll(array, channels, axis=0) for array in _parameters(final))
    program.conv(
        last,
        weight,
        bias,
        unit_out=np.repeat([1 / MEAN_ONE, 1 / SCALE_ONE], channels),
        low=np.repeat([-MEAN_LIMIT, 0], channels),
        high=np.repeat([MEAN_LIMIT, thresholds()[-1]], channels),
    )
    return program.graph()


def _first_conv(network: nn.Sequential) -> nn.Conv2d:
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    return first


def _parameters(conv: nn.Module) -> tuple[_Array, _Array]:
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    assert conv.bias is not None
    return _floats(conv.weight), _floats(conv.bias)


def _floats(tensor: torch.Tensor) -> _Array:
    array: _Array = tensor.detach().double().cpu().numpy()
    return array


def _tables_of_z(prior: FactorizedPrior) -> Tables:
    """Make one table for each channel, of the symbols that are worth a unit of frequency."""
    pmfs = []
    for row in prior.pmf(-Z_LIMIT, Z_LIMIT):
        kept = np.flatnonzero(row >= min(1 / TOTAL, row.max()))
        pmfs.append((int(kept[0]) - Z_LIMIT, row[kept[0] : kept[-1] + 1]))
    return tables_from_pmf(pmfs)
