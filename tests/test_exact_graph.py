"""Integer graphs give the integers of plain Python, and can't leave their range."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from cdcodec.entropy import ExactNet
from cdcodec.entropy.exact_graph import Add, Bend, ExactGraph, Leak, Run, load_network
from cdcodec.entropy.quantise import gelu_curve, quantise, split_phases
from cdcodec.errors import WeightsError
from tests.test_entropy import scrambled
from tests.test_exact import layer, plain_net

Rows = list[list[list[int]]]


def plain_graph(graph: ExactGraph, z: NDArray[Any]) -> Rows:
    """formats/entropy.md once more, in plain Python integers."""

    def each(plane: Rows, *function: Any) -> Rows:
        return [[[function[0](a) for a in row] for row in rows] for rows in plane]

    limit = graph.input_limit
    results = [each(z.tolist(), lambda a: min(max(a, -limit), limit))]
    for node in graph.nodes:
        source = results[node.source]
        if isinstance(node, Run):
            results.append(plain_net(node.net, np.array(source)))
        elif isinstance(node, Add):
            other = results[node.other]
            results.append((np.array(source, object) + np.array(other, object)).tolist())
        elif isinstance(node, Leak):
            slope = node.slope
            results.append(each(source, lambda a: a if a >= 0 else (a * slope + 2**15) // 2**16))  # noqa: B023
        else:
            curve = node.curve.tolist()
            last = len(curve) - 1
            results.append(each(source, lambda a: max(a, 0) - curve[min(abs(a), last)]))  # noqa: B023
    return results[-1]


def fixed_graph() -> ExactGraph:
    """Two upsamplings and residual blocks in small, as the published hyper decoders have them."""

    def net(rows: int, channels: int, kernel: int, seed: int, upsample: int = 1) -> ExactNet:
        shape = (rows, channels, kernel, kernel)
        weight = scrambled(math.prod(shape), 65535, seed).reshape(shape) - 32767
        one = layer(
            weight, bias=seed, multiplier=3, shift=16, low=-5000, high=5000, upsample=upsample
        )
        return ExactNet((one,), 5000)

    return ExactGraph(
        (
            Run(0, net(8, 3, 1, 1, 2)),
            Leak(1, 655),
            Run(2, net(2, 2, 3, 2)),
            Run(0, net(8, 3, 1, 3, 2)),
            Add(3, 4),
            Bend(5, np.array([0, 3, 5, 4, 1, 0], np.int32)),
            Add(6, 6),
            Run(7, net(4, 2, 3, 4)),
        ),
        channels_in=3,
        input_limit=90,
    )


def test_a_graph_equals_plain_python_integers() -> None:
    graph = fixed_graph()
    z = scrambled(3 * 4 * 5, 300, 9).reshape(3, 4, 5) - 150
    out = graph(z)
    assert out.dtype == np.int32
    assert out.tolist() == plain_graph(graph, z)
    assert np.abs(out).max() <= graph.output_limit
    assert (graph.channels_out, graph.upsample) == (4, 2)


@given(
    st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=20),
    st.integers(0, 2**16),
    st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9),
)
@settings(deadline=None, max_examples=50)
def test_operations_on_any_integers_equal_plain_python(
    values: list[int], slope: int, curve: list[int]
) -> None:
    z = np.array([[values]], np.int64)
    for node in (Leak(0, slope), Bend(0, np.array(curve, np.int32))):
        graph = ExactGraph((node,), 1, 2**31 - 1)
        assert graph(z).tolist() == plain_graph(graph, z)
    half = ExactGraph((Add(0, 0),), 1, 2**30 - 1)
    assert half(z).tolist() == plain_graph(half, z)


def test_an_empty_plane_gives_an_empty_plane() -> None:
    assert fixed_graph()(np.zeros((3, 0, 4), np.int32)).shape == (4, 0, 8)


def test_an_input_of_another_kind_is_refused() -> None:
    for z in (np.zeros((3, 2, 2)), np.zeros((2, 2, 2), int), np.zeros((2, 2), int)):
        with pytest.raises(ValueError, match="planes of integers"):
            fixed_graph()(z)


# ---- the proof


def test_a_sum_that_could_reach_2_to_the_31_is_refused() -> None:
    ExactGraph((Add(0, 0),), 1, 2**30 - 1)
    with pytest.raises(WeightsError, match="2\\*\\*31"):
        ExactGraph((Add(0, 0),), 1, 2**30)
    doubled = tuple(Add(i, i) for i in range(10))
    assert ExactGraph(doubled, 1, 2**20).output_limit == 2**30
    with pytest.raises(WeightsError, match="2\\*\\*31"):
        ExactGraph((*doubled, Add(10, 10)), 1, 2**20)


@pytest.mark.parametrize(
    "node",
    [
        Add(0, 1),
        Add(-1, 0),
        Leak(1, 5),
        Leak(0, -1),
        Leak(0, 2**16 + 1),
        Bend(0, np.zeros(0, np.int32)),
        Bend(0, np.array([-1], np.int32)),
        Bend(0, np.zeros((1, 1), np.int32)),
        Bend(0, np.zeros(1, np.int64)),
        Run(0, ExactNet((layer(np.ones((1, 2, 1, 1))),), 9)),
    ],
)
def test_an_unsound_node_is_a_weights_error(node: Any) -> None:
    with pytest.raises(WeightsError):
        ExactGraph((node,), 1, 9)


def test_what_is_added_has_one_shape() -> None:
    upsampled = Run(0, ExactNet((layer(np.ones((4, 1, 1, 1)), upsample=2, high=9, low=0),), 9))
    widened = Run(0, ExactNet((layer(np.ones((4, 1, 1, 1)), high=9, low=0),), 9))
    for first in (upsampled, widened):
        with pytest.raises(WeightsError, match="shapes"):
            ExactGraph((first, Add(1, 0)), 1, 9)


@pytest.mark.parametrize("limit", [0, 2**31])
def test_an_impossible_input_is_refused(limit: int) -> None:
    for nodes, channels, bound in [((Leak(0, 1),), 1, limit), ((), 1, 9), ((Leak(0, 1),), 0, 9)]:
        with pytest.raises(WeightsError, match="impossible input"):
            ExactGraph(nodes, channels, bound)


# ---- storage


def test_a_graph_comes_back_from_its_arrays() -> None:
    graph = fixed_graph()
    arrays = graph.arrays("h_s")
    again = load_network(arrays, "h_s")
    assert isinstance(again, ExactGraph)
    assert again.digest() == graph.digest()
    for name in arrays:
        with pytest.raises(WeightsError):
            load_network({k: v for k, v in arrays.items() if k != name}, "h_s")
    for name in ("h_s.program", "h_s.input", "h_s.5.curve"):
        for wrong in (arrays[name].astype(np.int64), arrays[name].ravel()[None, None, None]):
            with pytest.raises(WeightsError):
                load_network({**arrays, name: wrong}, "h_s")
    unknown = arrays["h_s.program"].copy()
    unknown[1, 0] = 4
    with pytest.raises(WeightsError, match="unknown kind"):
        load_network({**arrays, "h_s.program": unknown}, "h_s")
    net = fixed_graph().nodes[0]
    assert isinstance(net, Run)
    assert isinstance(load_network(net.net.arrays("h_s"), "h_s"), ExactNet)


def test_every_part_enters_the_digest() -> None:
    graph = fixed_graph()
    digests = {graph.digest(), replace(graph, input_limit=91).digest()}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Run):
            changed: Any = replace(node, net=ExactNet(node.net.layers, 4999))
        elif isinstance(node, Add):
            changed = Add(node.source, node.source)
        elif isinstance(node, Leak):
            changed = replace(node, slope=654)
        else:
            changed = replace(node, curve=node.curve[:-1].copy())
        nodes = (*graph.nodes[:i], changed, *graph.nodes[i + 1 :])
        digests.add(replace(graph, nodes=nodes).digest())
    assert len(digests) == 2 + len(graph.nodes) - 1  # one Add is its own replacement


# ---- what the published networks need


def test_a_curve_makes_a_gelu() -> None:
    unit = 1 / 512
    a = np.arange(-5000, 5001)
    graph = ExactGraph((Bend(0, gelu_curve(unit)),), 1, 2**20)
    expected = F.gelu(torch.from_numpy(a * unit)).numpy()
    np.testing.assert_allclose(graph(a[None, None])[0, 0] * unit, expected, atol=0.51 * unit)
    assert gelu_curve(unit)[-1] == 0


def test_a_slope_makes_a_leaky_relu() -> None:
    a = np.arange(-5000, 5001)
    graph = ExactGraph((Leak(0, round(0.01 * 2**16)),), 1, 2**20)
    expected = F.leaky_relu(torch.from_numpy(a / 1.0), 0.01).numpy()
    np.testing.assert_allclose(graph(a[None, None])[0, 0], expected, atol=0.6)


def test_nodes_make_a_transposed_convolution_and_a_gelu() -> None:
    unit, limit = 1 / 1024, 2**20 - 1
    random = np.random.default_rng(0)
    weight, bias = random.normal(0, 0.1, (3, 4, 5, 5)), random.normal(size=4)
    z = random.integers(-9, 10, (3, 4, 6))
    upsampling = quantise(
        split_phases(weight),
        np.repeat(bias, 4),
        input_limit=99,
        unit_in=1.0,
        unit_out=np.full(16, unit),
        low=np.full(16, -limit, np.int32),
        high=np.full(16, limit, np.int32),
        upsample=2,
    )
    graph = ExactGraph((Run(0, ExactNet((upsampling,), 99)), Bend(1, gelu_curve(unit))), 3, 99)
    expected = F.gelu(
        F.conv_transpose2d(
            torch.from_numpy(z / 1.0)[None],
            torch.from_numpy(weight),
            torch.from_numpy(bias),
            stride=2,
            padding=2,
            output_padding=1,
        )
    )
    np.testing.assert_allclose(graph(z) * unit, expected[0].numpy(), atol=4 * unit)
