"""Integer networks give the integers of plain Python, however the sums are ordered."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cdcodec.entropy import ExactLayer, ExactNet, exact
from cdcodec.errors import WeightsError
from tests.test_entropy import scrambled


def layer(
    weight: NDArray[Any],
    *,
    bias: int = 0,
    multiplier: int = 1,
    shift: int = 0,
    low: int = -(2**31),
    high: int = 2**31 - 1,
    upsample: int = 1,
) -> ExactLayer:
    rows = len(weight)
    return ExactLayer(
        weight=weight.astype(np.int16),
        bias=np.full(rows, bias, np.int64),
        multiplier=np.full(rows, multiplier, np.int32),
        shift=shift,
        low=np.full(rows, low, np.int32),
        high=np.full(rows, high, np.int32),
        upsample=upsample,
    )


def plain_layer(layer: ExactLayer, plane: list[list[list[int]]]) -> list[list[list[int]]]:
    """formats/entropy.md once more, in plain Python integers."""
    rows, channels, kernel, _ = layer.weight.shape
    weight, margin, u = layer.weight.tolist(), kernel // 2, layer.upsample
    height, width = len(plane[0]), len(plane[0][0])
    half = 2 ** (layer.shift - 1) if layer.shift else 0
    out = [[[0] * (width * u) for _ in range(height * u)] for _ in range(rows // u**2)]
    for o in range(rows):
        for y in range(height):
            for x in range(width):
                acc = int(layer.bias[o])
                for i in range(channels):
                    for dy in range(kernel):
                        for dx in range(kernel):
                            v, h = y + dy - margin, x + dx - margin
                            if 0 <= v < height and 0 <= h < width:
                                acc += weight[o][i][dy][dx] * plane[i][v][h]
                scaled = (acc * int(layer.multiplier[o]) + half) // 2**layer.shift
                clipped = min(max(scaled, int(layer.low[o])), int(layer.high[o]))
                out[o // u**2][y * u + o // u % u][x * u + o % u] = clipped
    return out


def plain_net(net: ExactNet, z: NDArray[Any]) -> list[list[list[int]]]:
    limit = net.input_limit
    plane = [[[min(max(v, -limit), limit) for v in row] for row in rows] for rows in z.tolist()]
    for one in net.layers:
        plane = plain_layer(one, plane)
    return plane


def fixed_net() -> ExactNet:
    """A net of the size in use, made without any library's random numbers."""

    def weight(rows: int, channels: int, kernel: int, seed: int) -> NDArray[np.int64]:
        shape = (rows, channels, kernel, kernel)
        return scrambled(rows * channels * kernel**2, 65535, seed).reshape(shape) - 32767

    return ExactNet(
        (
            layer(weight(64, 16, 3, 1), bias=-77, multiplier=3, shift=13, low=0, upsample=2),
            layer(weight(64, 16, 3, 2), multiplier=5, shift=22, low=0, high=32767, upsample=2),
            layer(weight(8, 16, 1, 3), bias=10**8, multiplier=7, shift=25, low=0, high=63),
        ),
        input_limit=32767,
    )


def fixed_digest() -> str:
    z = scrambled(16 * 8 * 12, 60, 4).reshape(16, 8, 12) - 30
    return hashlib.sha256(fixed_net()(z).astype("<i4").tobytes()).hexdigest()


PINNED_OUTPUT = "3b8625c5e7f10aa46cd120eee1dff1542070b9b3a928caaf66e2f4a4c3fdaa51"
PINNED_NET = "b81f8af910613c5def4511665bd54d1ee8e86966dd62f61385189b5a673b10e3"


@st.composite
def nets(draw: st.DrawFn) -> tuple[ExactNet, NDArray[np.int64]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    limit = draw(st.integers(1, 2**15))
    channels = first = draw(st.integers(1, 3))
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        upsample = draw(st.integers(1, 2))
        given_channels = draw(st.integers(1, 2))
        rows = given_channels * upsample**2
        kernel = draw(st.sampled_from([1, 3, 5]))
        low = rng.integers(-40000, 100, rows).astype(np.int32)
        layers.append(
            ExactLayer(
                weight=rng.integers(-(2**15), 2**15, (rows, channels, kernel, kernel), np.int16),
                bias=rng.integers(-(2**40), 2**40, rows),
                multiplier=rng.integers(0, 2**15, rows).astype(np.int32),
                shift=draw(st.integers(0, 40)),
                low=low,
                high=(low + rng.integers(0, 70000, rows)).astype(np.int32),
                upsample=upsample,
            )
        )
        channels = given_channels
    size = (first, draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    return ExactNet(tuple(layers), limit), rng.integers(-2 * limit, 2 * limit + 1, size)


@given(nets())
@settings(deadline=None, max_examples=40)
def test_any_network_equals_plain_python_integers(
    case: tuple[ExactNet, NDArray[np.int64]],
) -> None:
    net, z = case
    out = net(z)
    assert out.dtype == np.int32
    assert out.tolist() == plain_net(net, z)


def test_sums_at_the_very_edge_of_float64_are_exact() -> None:
    limit = 2**31 - 1
    weight = np.full((2, 128, 1, 1), 32767)
    weight[1, ::2] = -32768
    bias = 2**53 - limit * int(np.abs(weight[1]).sum())
    net = ExactNet((layer(weight, bias=bias, multiplier=1023, shift=33),), limit)
    z = np.full((128, 3, 3), limit, np.int64)
    z[::2, 1] = -limit
    z[5, 2, 2] -= 1
    assert net(z).tolist() == plain_net(net, z)


def test_the_output_of_a_fixed_network_never_changes() -> None:
    net = fixed_net()
    assert net.digest().hex() == PINNED_NET
    assert fixed_digest() == PINNED_OUTPUT
    small = scrambled(16 * 2 * 3, 60, 5).reshape(16, 2, 3) - 30
    assert net(small).tolist() == plain_net(net, small)


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_the_number_of_threads_does_not_matter(threads: str) -> None:
    names = ("OMP", "OPENBLAS", "MKL", "VECLIB")
    suffix = {"VECLIB": "_MAXIMUM_THREADS"}
    variables = {name + suffix.get(name, "_NUM_THREADS"): threads for name in names}
    root = os.path.dirname(os.path.dirname(__file__))
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    code = "from tests.test_exact import fixed_digest; import sys; sys.stdout.write(fixed_digest())"
    environment = {**os.environ, **variables, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode() == PINNED_OUTPUT, done.stderr.decode()


@pytest.mark.parametrize("strip_bytes", [1, 3000, 40_000, 10**9])
def test_strips_of_any_size_give_the_same(
    strip_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = scrambled(16 * 5 * 7, 60, 6).reshape(16, 5, 7) - 30
    whole = fixed_net()(z)
    monkeypatch.setattr(exact, "STRIP_BYTES", strip_bytes)
    assert (fixed_net()(z) == whole).all()


def test_no_unfolded_matrix_exceeds_the_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    unfold = exact._unfold

    def spy(patch: NDArray[np.int32], kernel: int) -> NDArray[np.float64]:
        sizes.append(unfold(patch, kernel).nbytes)
        return unfold(patch, kernel)

    monkeypatch.setattr(exact, "_unfold", spy)
    monkeypatch.setattr(exact, "STRIP_BYTES", 20_000)
    fixed_net()(np.ones((16, 3, 300), np.int32))
    assert max(sizes) <= 20_000


def test_the_pixel_shuffle_puts_channels_where_the_format_says() -> None:
    net = ExactNet((layer(np.arange(8).reshape(8, 1, 1, 1), upsample=2),), 9)
    assert net(np.array([[[1, 10]]])).tolist() == [
        [[0, 1, 0, 9], [2, 3, 18, 27]],
        [[4, 5, 36, 45], [6, 7, 54, 63]],
    ]


def test_requantisation_rounds_half_up_and_shifts_down() -> None:
    net = ExactNet((layer(np.ones((1, 1, 1, 1)), shift=1),), 9)
    assert net(np.array([[[-3, -2, -1, 0, 1, 2, 3]]])).tolist() == [[[-1, -1, 0, 0, 1, 1, 2]]]


def test_the_input_is_clipped_whatever_its_type() -> None:
    net = ExactNet((layer(np.ones((1, 1, 1, 1))),), 200)
    assert net(np.array([[[-128, 127]]], np.int8)).tolist() == [[[-128, 127]]]
    assert net(np.array([[[-(2**62), 2**62]]])).tolist() == [[[-200, 200]]]


def test_an_empty_plane_gives_an_empty_plane() -> None:
    assert fixed_net()(np.zeros((16, 0, 4), np.int32)).shape == (8, 0, 16)


@pytest.mark.parametrize(
    "z", [np.zeros((1, 2, 2)), np.zeros((2, 2, 2), int), np.zeros((2, 2), int)]
)
def test_an_input_of_another_kind_is_refused(z: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="planes of integers"):
        ExactNet((layer(np.ones((1, 1, 1, 1))),), 9)(z)


# ---- the proof


def test_an_accumulator_of_2_to_the_53_is_the_most_that_is_accepted() -> None:
    one = np.ones((1, 1, 1, 1))
    ExactNet((layer(one, bias=2**53 - 9),), 9)
    ExactNet((layer(one, bias=-(2**53) + 9),), 9)
    with pytest.raises(WeightsError, match="53"):
        ExactNet((layer(one, bias=2**53 - 8),), 9)
    with pytest.raises(WeightsError, match="53"):
        ExactNet((layer(one, bias=-(2**63)),), 9)
    with pytest.raises(WeightsError, match="53"):
        ExactNet((layer(np.full((1, 129, 1, 1), 32767)),), 2**31 - 1)


def test_a_product_of_2_to_the_63_is_refused() -> None:
    one = np.ones((1, 1, 1, 1))
    ExactNet((layer(one, bias=2**53 - 9, multiplier=1023),), 9)
    with pytest.raises(WeightsError, match="63"):
        ExactNet((layer(one, bias=2**53 - 9, multiplier=1024),), 9)
    with pytest.raises(WeightsError, match="63"):
        ExactNet((layer(one, bias=2**53 - 9, multiplier=1023, shift=62),), 9)


def test_the_output_bounds_of_a_layer_enter_the_proof_of_the_next() -> None:
    wide = layer(np.ones((1, 1, 1, 1)))
    heavy = layer(np.full((1, 1, 17, 17), 32767))
    with pytest.raises(WeightsError, match="layer 1"):
        ExactNet((wide, heavy), 9)
    ExactNet((replace(wide, low=np.array([-99], np.int32), high=np.array([9], np.int32)), heavy), 9)


@pytest.mark.parametrize("limit", [0, -1, 2**31])
def test_an_impossible_input_limit_is_refused(limit: int) -> None:
    with pytest.raises(WeightsError, match="limit"):
        ExactNet((layer(np.ones((1, 1, 1, 1))),), limit)


def test_layers_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(WeightsError, match="channels"):
        ExactNet((layer(np.ones((4, 1, 1, 1)), upsample=2), layer(np.ones((1, 4, 1, 1)))), 9)
    with pytest.raises(WeightsError, match="no layers"):
        ExactNet((), 9)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": np.ones((4, 1, 2, 2), np.int16)},
        {"weight": np.ones((4, 1, 3, 1), np.int16)},
        {"weight": np.ones((4, 1, 3), np.int16)},
        {"weight": np.ones((0, 1, 3, 3), np.int16)},
        {"weight": np.ones((4, 1, 3, 3), np.int32)},
        {"weight": np.ones((4, 1, 3, 3), np.float32)},
        {"bias": np.zeros(3, np.int64)},
        {"bias": np.zeros(4, np.float64)},
        {"multiplier": np.full(4, -1, np.int32)},
        {"shift": -1},
        {"shift": 63},
        {"low": np.full(4, 8, np.int32), "high": np.full(4, 7, np.int32)},
        {"upsample": 0},
        {"upsample": 3},
    ],
)
def test_an_unsound_layer_is_a_weights_error(change: dict[str, Any]) -> None:
    with pytest.raises(WeightsError):
        replace(layer(np.ones((4, 1, 3, 3)), upsample=2), **change)


# ---- storage


def test_a_network_comes_back_from_its_arrays() -> None:
    net = fixed_net()
    arrays = net.arrays("h_s")
    again = ExactNet.from_arrays(arrays, "h_s")
    assert again.digest() == net.digest()
    assert len(again.layers) == 3
    assert pickle.loads(pickle.dumps(net)).digest() == net.digest()
    for name in arrays:
        with pytest.raises(WeightsError):
            ExactNet.from_arrays({k: v for k, v in arrays.items() if k != name}, "h_s")
    with pytest.raises(WeightsError, match="single int32"):
        ExactNet.from_arrays({**arrays, "h_s.1.shift": np.array([1, 2], np.int32)}, "h_s")


def test_every_field_enters_the_digest() -> None:
    first, *rest = fixed_net().layers
    digests = {fixed_net().digest(), ExactNet((first, *rest), 32766).digest()}
    for field in ("weight", "bias", "multiplier", "low", "high"):
        array = getattr(first, field).copy()
        array.flat[0] += 1 if field != "high" else -1
        digests.add(ExactNet((replace(first, **{field: array}), *rest), 32767).digest())
    digests.add(ExactNet((replace(first, shift=12), *rest), 32767).digest())
    assert len(digests) == 8
