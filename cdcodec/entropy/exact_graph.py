"""Integer networks that are more than a chain: residual additions, leaky ReLU and GELU.

Convolutions stay in ``ExactNet``, which proves itself; a graph joins such chains by operations on
single integers, and proves that these can't leave 32 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cdcodec.entropy.exact import ExactNet
from cdcodec.errors import WeightsError

INT32_LIMIT = 2**31 - 1

LEAK_BITS = 16
"""Slopes are held in units of 2**-16."""

MAX_CURVE = 2**20
"""Most entries of a curve."""

_Plane = NDArray[np.int32]


@dataclass(frozen=True)
class Shape:
    """What is known of a result.

    Attributes:
        channels: How many.
        scale: How many times as wide and high as the input it is.
        limit: Bound of its absolute value.
    """

    channels: int
    scale: int
    limit: int


@dataclass(frozen=True, eq=False)
class Run:
    """An integer network; it clips what it takes."""

    CODE: ClassVar[int] = 0
    source: int
    net: ExactNet

    def __call__(self, plane: _Plane) -> _Plane:
        """Map the source."""
        return self.net(plane)

    def shape(self, source: Shape) -> Shape:
        """Return the result's shape, or raise WeightsError."""
        if source.channels != self.net.channels_in:
            raise WeightsError("integer graph: a network doesn't fit what it takes")
        return Shape(self.net.channels_out, source.scale * self.net.upsample, self.net.output_limit)


@dataclass(frozen=True)
class Add:
    """The sum of two nodes."""

    CODE: ClassVar[int] = 1
    source: int
    other: int

    def __call__(self, plane: _Plane, other: _Plane) -> _Plane:
        """Add the two."""
        return plane + other

    def shape(self, source: Shape, other: Shape) -> Shape:
        """Return the result's shape, or raise WeightsError."""
        if (source.channels, source.scale) != (other.channels, other.scale):
            raise WeightsError("integer graph: what is added has different shapes")
        return Shape(source.channels, source.scale, source.limit + other.limit)


@dataclass(frozen=True)
class Leak:
    """A leaky ReLU: a where a >= 0, else (a * slope + 2**15) >> 16; slope is 0..2**16."""

    CODE: ClassVar[int] = 2
    source: int
    slope: int

    def __call__(self, plane: _Plane) -> _Plane:
        """Map the source."""
        small = plane.astype(np.int64) * self.slope
        small += 1 << (LEAK_BITS - 1)
        small >>= LEAK_BITS
        return np.where(plane >= 0, plane, small.astype(np.int32))

    def shape(self, source: Shape) -> Shape:
        """Return the result's shape, or raise WeightsError."""
        if not 0 <= self.slope <= 1 << LEAK_BITS:
            raise WeightsError("integer graph: an impossible slope")
        return source


@dataclass(frozen=True, eq=False)
class Bend:
    """A ReLU less an even function: max(a, 0) - curve[min(|a|, n - 1)].

    GELU is one: with Phi the normal distribution, a Phi(a) = max(a, 0) - |a| Phi(-|a|).

    Attributes:
        curve: int32 [n], n in 1..2**20, no value below 0.
    """

    CODE: ClassVar[int] = 3
    source: int
    curve: _Plane

    def __call__(self, plane: _Plane) -> _Plane:
        """Map the source."""
        return np.maximum(plane, 0) - self.curve[np.minimum(np.abs(plane), len(self.curve) - 1)]

    def shape(self, source: Shape) -> Shape:
        """Return the result's shape, or raise WeightsError."""
        if self.curve.dtype != np.int32 or self.curve.ndim != 1:
            raise WeightsError("integer graph: a curve is not a vector of int32")
        if not 1 <= len(self.curve) <= MAX_CURVE or self.curve.min() < 0:
            raise WeightsError("integer graph: an impossible curve")
        return Shape(source.channels, source.scale, max(source.limit, int(self.curve.max())))


Node = Run | Add | Leak | Bend
"""Sources are numbers of earlier results: 0 is the input, 1 what the first node gives."""


@dataclass(frozen=True, eq=False)
class ExactGraph:
    """Nodes that each take what earlier ones gave; it can stand wherever an ``ExactNet`` can.

    Attributes:
        nodes: At least one; the last gives the result.
        channels_in: Channels that the graph takes.
        input_limit: The input is clipped to ±input_limit, 1..2**31-1.

    Raises:
        WeightsError: ``check`` refuses the nodes.
    """

    nodes: tuple[Node, ...]
    channels_in: int
    input_limit: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        self.check()

    def check(self) -> None:
        """Prove that nothing leaves 32 bits; the constructor has done so already.

        Raises:
            WeightsError: Nodes don't fit each other, or a sum could reach 2**31.
        """
        assert self._shapes

    @property
    def channels_out(self) -> int:
        """Channels that the graph gives."""
        return self._shapes[-1].channels

    @property
    def upsample(self) -> int:
        """How many times as wide and high its output is."""
        return self._shapes[-1].scale

    @property
    def output_limit(self) -> int:
        """Bound of the absolute output."""
        return self._shapes[-1].limit

    @property
    def output_bounds(self) -> tuple[_Plane, _Plane]:
        """The least and the greatest output of each channel."""
        last = self.nodes[-1]
        if isinstance(last, Run):
            return last.net.output_bounds
        high = np.full(self.channels_out, self.output_limit, np.int32)
        return -high, high

    @property
    def is_pointwise(self) -> bool:
        """Whether each output depends on the inputs at its own place alone."""
        return all(node.net.is_pointwise for node in self.nodes if isinstance(node, Run))

    @cached_property
    def _shapes(self) -> tuple[Shape, ...]:
        """The shape of the input, then of each result."""
        if not self.nodes or self.channels_in < 1 or not 1 <= self.input_limit <= INT32_LIMIT:
            raise WeightsError("integer graph: no nodes, or an impossible input")
        shapes = [Shape(self.channels_in, 1, self.input_limit)]
        for node in self.nodes:
            if not all(0 <= source < len(shapes) for source in _sources(node)):
                raise WeightsError("integer graph: a node takes what comes after it")
            shapes.append(node.shape(*(shapes[source] for source in _sources(node))))
            if shapes[-1].limit > INT32_LIMIT:
                raise WeightsError("integer graph: a sum can reach 2**31")
        return tuple(shapes)

    def __call__(self, z: NDArray[Any]) -> _Plane:
        """Map integers z [C, H, W] to int32 [O, H*u, W*u], u the product of all upsamplings.

        Raises:
            ValueError: z is not integer, or not of that shape.
        """
        if z.dtype.kind not in "iu" or z.ndim != 3 or len(z) != self.channels_in:
            raise ValueError(f"{z.dtype} {z.shape} is not {self.channels_in} planes of integers")
        limit = self.input_limit
        results = {0: np.clip(z.astype(np.int64), -limit, limit).astype(np.int32)}
        last_use = {source: i for i, node in enumerate(self.nodes) for source in _sources(node)}
        for i, node in enumerate(self.nodes):
            results[i + 1] = node(*(results[source] for source in _sources(node)))
            for source in set(_sources(node)):
                if last_use[source] == i:
                    del results[source]
        return results[len(self.nodes)]

    def digest(self) -> bytes:
        """Return the SHA-256 that goes into the model id (layout in ``formats/entropy.md``)."""
        head = (len(self.nodes), self.channels_in, self.input_limit)
        digest = hashlib.sha256(np.array(head, "<u4").tobytes())
        digest.update(self._program().astype("<i4").tobytes())
        for node in self.nodes:
            if isinstance(node, Run):
                digest.update(node.net.digest())
            elif isinstance(node, Bend):
                digest.update(np.array(len(node.curve), "<u4").tobytes())
                digest.update(node.curve.astype("<i4").tobytes())
        return digest.digest()

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names they have in a weight file, ``prefix.program`` etc."""
        named: dict[str, NDArray[Any]] = {
            f"{prefix}.program": self._program(),
            f"{prefix}.input": np.array([self.channels_in, self.input_limit], np.int32),
        }
        for i, node in enumerate(self.nodes):
            if isinstance(node, Run):
                named.update(node.net.arrays(f"{prefix}.{i}"))
            elif isinstance(node, Bend):
                named[f"{prefix}.{i}.curve"] = node.curve
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> ExactGraph:
        """Find the arrays of ``arrays(prefix)`` again.

        Raises:
            WeightsError: An array is missing or of the wrong kind, or ``check`` refuses the graph.
        """
        program = _integers(arrays, f"{prefix}.program", 2)
        head = _integers(arrays, f"{prefix}.input", 1)
        if program.shape[1] != 3 or len(head) != 2:
            raise WeightsError(f"weight file: {prefix!r} is not an integer graph")
        nodes: list[Node] = []
        for i, (code, source, argument) in enumerate(program.tolist()):
            if code == Add.CODE:
                nodes.append(Add(source, argument))
            elif code == Leak.CODE:
                nodes.append(Leak(source, argument))
            elif code == Run.CODE and not argument:
                nodes.append(Run(source, ExactNet.from_arrays(arrays, f"{prefix}.{i}")))
            elif code == Bend.CODE and not argument:
                nodes.append(Bend(source, _integers(arrays, f"{prefix}.{i}.curve", 1)))
            else:
                raise WeightsError(f"weight file: {prefix!r} has a node of an unknown kind")
        return cls(tuple(nodes), *head.tolist())

    def _program(self) -> _Plane:
        """Return [nodes, 3]: what a node is, its source, and its other source or its slope."""
        rows = [(node.CODE, node.source, _argument(node)) for node in self.nodes]
        return np.array(rows, np.int32)


Network = ExactNet | ExactGraph


def load_network(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Network:
    """Find a network of either kind in the arrays of a weight file.

    Raises:
        WeightsError: An array is missing or of the wrong kind, or a bound is broken.
    """
    kind = ExactGraph if f"{prefix}.program" in arrays else ExactNet
    return kind.from_arrays(arrays, prefix)


def _sources(node: Node) -> tuple[int, ...]:
    return (node.source, node.other) if isinstance(node, Add) else (node.source,)


def _argument(node: Node) -> int:
    if isinstance(node, Add):
        return node.other
    return node.slope if isinstance(node, Leak) else 0


def _integers(arrays: Mapping[str, NDArray[Any]], name: str, dimensions: int) -> _Plane:
    array = arrays.get(name)
    if array is None:
        raise WeightsError(f"weight file lacks the array {name!r}")
    if array.dtype != np.int32 or array.ndim != dimensions:
        raise WeightsError(f"weight file: {name!r} is not int32 in {dimensions} dimensions")
    return array
