"""The space-channel context model in integers: codes y, half a slice of channels at a time.

What nn/context.py computes in floats, and formats/entropy.md defines. All that a decoder adds to
what it reads comes from integer networks, so the integers are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.entropy.coder import Coder, IntArray
from cdcodec.entropy.exact_graph import Network, load_network
from cdcodec.entropy.tables import MAX_MAGNITUDE, Tables
from cdcodec.errors import WeightsError

MEAN_BITS = 6
MEAN_ONE = 2**MEAN_BITS
"""Means and y are held in fixed point, in units of 1/64."""

MEAN_LIMIT = MAX_MAGNITUDE * MEAN_ONE
"""Bound of a mean, so that y_hat stays below 2**22."""

NAME = "y"


@dataclass(frozen=True, eq=False)
class ExactSlice:
    """The networks of one slice of c channels.

    Attributes:
        channel: y_hat of all earlier slices to any number of planes; None in the first slice.
        anchor: cat(channel, hyper) to 2c planes: means in 1/64, then table indices or scales;
            kernels of 1.
        local: y_hat of this slice's anchors, zeros between them, to any number of planes.
        nonanchor: cat(local, channel, hyper) to 2c planes, likewise; kernels of 1.
    """

    channel: Network | None
    anchor: Network
    local: Network
    nonanchor: Network

    @property
    def channels(self) -> int:
        """Channels of y in this slice."""
        return self.local.channels_in

    def named(self) -> dict[str, Network]:
        """Return the networks that there are, in the order of the digest."""
        first = {} if self.channel is None else {"channel": self.channel}
        return {**first, "anchor": self.anchor, "local": self.local, "nonanchor": self.nonanchor}


@dataclass(frozen=True, eq=False)
class ExactContext:
    """The slices of a context model, checked when it is made.

    Attributes:
        slices: At least one.
        hyper: Planes that enter beside y.

    Raises:
        WeightsError: ``check`` refuses the slices.
    """

    slices: tuple[ExactSlice, ...]
    hyper: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "slices", tuple(self.slices))
        self.check()

    def check(self) -> None:
        """See that networks fit each other; that none leaves the exact range each has proved.

        Raises:
            WeightsError: Numbers of channels don't fit, a network changes the size of a plane or
                looks beyond the element where it must not, or a mean could be out of range.
        """
        if not self.slices:
            raise WeightsError("context model: no slices")
        before = 0
        for k, own in enumerate(self.slices):
            if any(net.upsample != 1 for net in own.named().values()):
                raise WeightsError(f"context model: a network of slice {k} changes the size")
            support = self.hyper
            if own.channel is not None:
                if own.channel.channels_in != before:
                    raise WeightsError(f"context model: channel of slice {k} has other inputs")
                support += own.channel.channels_out
            if (own.channel is None) != (before == 0):
                raise WeightsError(f"context model: slice {k} has no use for channel, or lacks it")
            takes = {"anchor": support, "nonanchor": support + own.local.channels_out}
            for name, channels in takes.items():
                net = own.named()[name]
                if net.channels_in != channels or net.channels_out != 2 * own.channels:
                    raise WeightsError(f"context model: {name} of slice {k} has other channels")
                if not net.is_pointwise:
                    raise WeightsError(f"context model: {name} of slice {k} isn't pointwise")
                means = [bound[: own.channels].astype(np.int64) for bound in net.output_bounds]
                if np.abs(means).max() > MEAN_LIMIT:
                    raise WeightsError(f"context model: a mean of slice {k} could be out of range")
            before += own.channels

    @property
    def channels(self) -> int:
        """Channels of y."""
        return sum(own.channels for own in self.slices)

    @property
    def index_bounds(self) -> tuple[int, int]:
        """The least and the greatest table index, or scale, that there could be."""
        bounds = [
            (low[own.channels :].min(), high[own.channels :].max())
            for own in self.slices
            for low, high in (own.anchor.output_bounds, own.nonanchor.output_bounds)
        ]
        return min(int(low) for low, _ in bounds), max(int(high) for _, high in bounds)

    def code(
        self,
        coder: Coder,
        y: IntArray | None,
        hyper: NDArray[np.int32],
        tables: Tables,
        thresholds: NDArray[np.int32] | None = None,
    ) -> NDArray[np.int32]:
        """Code y: in each slice the anchors, then what lies between them.

        Args:
            coder: Writer, Reader or Meter.
            y: In units of 1/64 [M, h, w]; rounded to whole steps from its mean. None when reading.
            hyper: Planes [H, h, w] in the fixed point that the networks were made for.
            tables: Zero-mean tables.
            thresholds: Rising [K]; if given, networks tell scales, and the table index is the
                number of thresholds that a scale reaches.

        Returns:
            y_hat, in units of 1/64.

        Raises:
            ValueError: If y isn't of that shape.
        """
        rows, columns = hyper.shape[1:]
        if y is not None and y.shape != (self.channels, rows, columns):
            raise ValueError(f"y has shape {y.shape}, not {(self.channels, rows, columns)}")
        is_anchor = checkerboard(rows, columns)
        anchors, others = np.flatnonzero(is_anchor), np.flatnonzero(~is_anchor)
        # Positions in one row, so that half of them are a matter of columns.
        y_hat = np.zeros((self.channels, rows * columns), np.int32)
        hyper = hyper.reshape(len(hyper), -1)
        start = 0
        for own in self.slices:
            stop = start + own.channels
            target = None if y is None else y[start:stop].reshape(own.channels, -1)
            support = [hyper]
            if own.channel is not None:
                planes = own.channel(y_hat[:start].reshape(start, rows, columns))
                support.insert(0, planes.reshape(len(planes), -1))
            steps = _Half(coder, tables, thresholds, target)
            y_hat[start:stop, anchors] = steps.code(own.anchor, support, anchors)
            planes = own.local(y_hat[start:stop].reshape(-1, rows, columns))
            support.insert(0, planes.reshape(len(planes), -1))
            y_hat[start:stop, others] = steps.code(own.nonanchor, support, others)
            start = stop
        return y_hat.reshape(-1, rows, columns)

    def digest(self) -> bytes:
        """Return the SHA-256 that goes into the model id (layout in ``formats/entropy.md``)."""
        sizes = (len(self.slices), self.hyper, *(own.channels for own in self.slices))
        digest = hashlib.sha256(np.array(sizes, dtype="<u4").tobytes())
        for own in self.slices:
            for net in own.named().values():
                digest.update(net.digest())
        return digest.digest()

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names they have in a weight file, ``prefix.0.anchor.…``."""
        named: dict[str, NDArray[Any]] = {}
        for k, own in enumerate(self.slices):
            for name, net in own.named().items():
                named.update(net.arrays(f"{prefix}.{k}.{name}"))
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> ExactContext:
        """Find the arrays of ``arrays(prefix)`` again.

        Raises:
            WeightsError: An array is missing or of the wrong kind, or ``check`` refuses the slices.
        """
        names = {name[len(prefix) + 1 :] for name in arrays if name.startswith(f"{prefix}.")}
        present = {tuple(name.split(".")[:2]) for name in names}
        count = 1 + max((int(k) for k, *_ in present if k.isdecimal()), default=-1)

        def net(k: int, name: str) -> Network:
            return load_network(arrays, f"{prefix}.{k}.{name}")

        slices = [
            ExactSlice(
                channel=net(k, "channel") if k else None,
                anchor=net(k, "anchor"),
                local=net(k, "local"),
                nonanchor=net(k, "nonanchor"),
            )
            for k in range(count)
        ]
        return cls(tuple(slices), slices[0].anchor.channels_in if slices else 0)


@dataclass(frozen=True)
class _Half:
    """Codes one half of a slice; target is y of the whole slice [c, h*w], or None."""

    coder: Coder
    tables: Tables
    thresholds: NDArray[np.int32] | None
    target: IntArray | None

    def code(
        self, net: Network, support: list[NDArray[np.int32]], positions: NDArray[np.intp]
    ) -> NDArray[np.int32]:
        """Return y_hat [c, n] at n positions, given all that net sees, [., h*w] each."""
        seen = np.concatenate([planes[:, positions] for planes in support])
        mean, scale = np.split(net(seen[:, None])[:, 0], 2)
        index: NDArray[Any] = scale
        if self.thresholds is not None:
            index = np.searchsorted(self.thresholds, scale, side="right")
        steps = None
        if self.target is not None:
            distance = self.target[:, positions].astype(np.int64) - mean
            steps = (distance + MEAN_ONE // 2) >> MEAN_BITS
            steps = np.clip(steps, -MAX_MAGNITUDE, MAX_MAGNITUDE)
        return self.coder.symbols(NAME, steps, index, self.tables) * np.int32(MEAN_ONE) + mean


def checkerboard(rows: int, columns: int) -> NDArray[np.bool_]:
    """Return where anchors lie, [rows, columns]: row + column is odd."""
    parity: NDArray[np.bool_] = np.add.outer(np.arange(rows), np.arange(columns)) % 2 == 1
    return parity
