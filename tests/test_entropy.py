"""A walk comes back exactly, costs what it should, and damage is noticed or harmless."""

from __future__ import annotations

import copy
import hashlib
import pickle
import tracemalloc
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cdcodec.entropy import (
    MAX_CARDINALITY,
    MAX_MAGNITUDE,
    Coder,
    Meter,
    Reader,
    Tables,
    Writer,
    gaussian_tables,
    tables_from_pmf,
)
from cdcodec.entropy.coder import MAX_WEIGHT
from cdcodec.errors import DesyncError, WeightsError
from tests.reference_rans import ReferenceDecoder, Table

TOTAL = 2**24
GAUSSIAN = gaussian_tables()
# Written out in integers, so that the pinned words depend on no floating point.
SMALL = Tables(
    frequencies=np.array(
        [TOTAL - 1, 1]
        + [2**22, 2**23, 2**22 - 1, 1]
        + [1, 1, TOTAL - 2**20 - 3, 2**20, 1]
        + [3, TOTAL - 3],
        dtype=np.int32,
    ),
    starts=np.array([0, 2, 6, 11, 13], dtype=np.int32),
    lows=np.array([0, -1, -2, 7], dtype=np.int32),
)


def scrambled(count: int, below: int, seed: int = 1) -> NDArray[np.int64]:
    """Integers 0..below-1 from a generator that no library can change."""
    state, drawn = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        drawn.append((state >> 33) % below)
    return np.array(drawn, dtype=np.int64)


def plain(tables: Tables) -> list[Table]:
    parts = np.split(tables.frequencies, tables.starts[1:-1])
    return [(int(low), part.tolist()) for low, part in zip(tables.lows, parts, strict=True)]


def small_walk() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    index = scrambled(96, 4, seed=2).reshape(4, 4, 6)
    values = scrambled(96, 9, seed=3).reshape(4, 4, 6) - 4
    values[0, 0] = [0, 1, -MAX_MAGNITUDE, MAX_MAGNITUDE, 700, -3]
    return index, values, scrambled(10, 5, seed=4)


def write_small() -> Writer:
    index, values, colours = small_walk()
    writer = Writer()
    writer.symbols("y", values, index, SMALL)
    writer.uniform("clut", colours, 5, (10,))
    return writer


def read_small(payload: bytes) -> Reader:
    reader = Reader(payload)
    reader.symbols("y", None, small_walk()[0], SMALL)
    reader.uniform("clut", None, 5, (10,))
    reader.finish()
    return reader


def gaussian_data(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    index = np.clip(np.round(rng.normal(20, 10, shape)), 0, 63).astype(np.int64)
    sigma = 0.11 * (256 / 0.11) ** (index / 63)
    return np.round(rng.normal(0, 1, shape) * sigma).astype(np.int64), index


# ---- round trips


@st.composite
def walks(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """A list of (kind or table count, element count, seed)."""
    step = st.tuples(st.integers(-70000, 64), st.integers(0, 60), st.integers(0, 2**32 - 1))
    return draw(st.lists(step, max_size=8))


def run(coder: Coder, walk: list[tuple[int, int, int]], *, blind: bool) -> list[NDArray[np.int32]]:
    """Negative kinds are uniform with that many values, others Gaussian with escapes among them."""
    results = []
    for number, (kind, count, seed) in enumerate(walk):
        rng = np.random.default_rng(seed)
        name = f"part {number % 3}"
        if kind < 0:
            cardinality = min(-kind, MAX_CARDINALITY)
            values = rng.integers(0, cardinality, count)
            got = coder.uniform(name, None if blind else values, cardinality, (count,))
        else:
            index = rng.integers(0, max(kind, 1), (count, 2)).astype(np.uint8)
            values = np.round(rng.standard_cauchy((count, 2)) * 50)
            values = np.clip(values, -MAX_MAGNITUDE, MAX_MAGNITUDE).astype(np.int16)
            got = coder.symbols(name, None if blind else values, index, GAUSSIAN)
        assert got.dtype == np.int32
        assert got.shape == values.shape
        assert (got == values).all()
        results.append(got)
    return results


@given(walks())
@settings(deadline=None, max_examples=60)
def test_any_walk_comes_back_exactly(walk: list[tuple[int, int, int]]) -> None:
    writer, meter = Writer(), Meter()
    run(writer, walk, blind=False)
    run(meter, walk, blind=False)
    reader = Reader(writer.finish())
    run(reader, walk, blind=True)
    reader.finish()
    assert writer.digest() == reader.digest()
    assert writer.bits == pytest.approx(meter.bits)
    assert reader.bits == pytest.approx(meter.bits)


@pytest.mark.parametrize("value", [0, 1, -1, 2, -2, 3, -3, 4, MAX_MAGNITUDE, -MAX_MAGNITUDE])
@pytest.mark.parametrize("table", [0, 1, 2, 3])
def test_values_in_and_outside_of_every_table_come_back(value: int, table: int) -> None:
    writer = Writer()
    writer.symbols("y", np.full(5, value), np.full(5, table), SMALL)
    reader = Reader(writer.finish())
    assert (reader.symbols("y", None, np.full(5, table), SMALL) == value).all()
    reader.finish()


def test_the_longest_escape_of_a_table_at_either_end_comes_back() -> None:
    tables = tables_from_pmf([(-MAX_MAGNITUDE, [0.5]), (MAX_MAGNITUDE, [0.5])])
    index = np.array([0, 1, 0, 1])
    values = np.array([MAX_MAGNITUDE, -MAX_MAGNITUDE, -MAX_MAGNITUDE, MAX_MAGNITUDE])
    writer = Writer()
    writer.symbols("y", values, index, tables)
    reader = Reader(writer.finish())
    assert (reader.symbols("y", None, index, tables) == values).all()
    reader.finish()


def test_more_than_256_tables_work() -> None:
    tables = tables_from_pmf([(i - 150, [0.5, 0.25]) for i in range(300)])
    index = scrambled(500, 300)
    values = index - 150 + scrambled(500, 3, seed=7)
    writer = Writer()
    writer.symbols("z", values, index, tables)
    assert (Reader(writer.finish()).symbols("z", None, index, tables) == values).all()


def test_an_empty_walk_is_an_empty_payload() -> None:
    writer = Writer()
    writer.symbols("y", np.zeros((0, 4), int), np.zeros((0, 4), int), GAUSSIAN)
    writer.uniform("one", np.zeros(9, int), 1, (9,))
    assert writer.finish() == b""
    reader = Reader(b"")
    assert reader.symbols("y", None, np.zeros((0, 4), int), GAUSSIAN).shape == (0, 4)
    assert reader.uniform("one", None, 1, (9,)).tolist() == [0] * 9
    reader.finish()
    assert writer.digest() == reader.digest()
    assert writer.total_bits == 0


def test_a_payload_never_ends_in_a_zero_byte() -> None:
    for count in range(200):
        writer = Writer()
        writer.uniform("u", scrambled(count, 251, seed=count), 251, (count,))
        payload = writer.finish()
        assert not payload.endswith(b"\0")
        reader = Reader(payload)
        reader.uniform("u", None, 251, (count,))
        reader.finish()


def test_finishing_twice_gives_the_same_bytes() -> None:
    writer = write_small()
    assert writer.finish() == writer.finish()


def test_what_a_coder_returns_is_not_the_callers_array() -> None:
    index, values, _ = small_walk()
    values = values.astype(np.int32)
    writer = Writer()
    returned = writer.symbols("y", values, index, SMALL)
    before = writer.finish()
    values += 1
    returned += 1
    assert writer.finish() == before


# ---- the stream itself


def test_the_bytes_of_a_fixed_walk_never_change() -> None:
    # A failure here after an update of constriction means that old files would not decode.
    payload = write_small().finish()
    words = [int.from_bytes(payload[i : i + 4], "little") for i in range(0, len(payload), 4)]
    assert words == [int(word, 16) for word in PINNED_WORDS.split()]
    assert read_small(payload).digest() == PINNED_DIGEST


def test_the_digest_is_what_the_format_says() -> None:
    index, values, colours = small_walk()
    expected = hashlib.sha256(b"y\0" + values.astype("<i4").tobytes())
    expected.update(b"clut\0" + colours.astype("<i4").tobytes())
    assert write_small().digest() == expected.hexdigest()


def test_the_plain_python_decoder_reads_the_small_walk() -> None:
    index, values, colours = small_walk()
    decoder = ReferenceDecoder(write_small().finish())
    assert decoder.symbols(index.ravel().tolist(), plain(SMALL)) == values.ravel().tolist()
    assert [decoder.pop_uniform(5) for _ in range(10)] == colours.tolist()
    assert decoder.is_empty


def test_the_plain_python_decoder_reads_gaussian_tables_with_escapes() -> None:
    index = scrambled(600, 64, seed=5)
    values = scrambled(600, 1201, seed=6) - 600
    writer = Writer()
    writer.symbols("y", values, index, GAUSSIAN)
    decoder = ReferenceDecoder(writer.finish())
    assert decoder.symbols(index.tolist(), plain(GAUSSIAN)) == values.tolist()
    assert decoder.is_empty


@pytest.mark.parametrize("cardinality", [1, 2, 3, 5, 255, 256, 257, 4099, 65535, 65536])
def test_the_plain_python_decoder_reads_uniform_values(cardinality: int) -> None:
    values = scrambled(12, cardinality, seed=8)
    values[:2] = cardinality - 1
    writer = Writer()
    writer.uniform("u", values, cardinality, (12,))
    decoder = ReferenceDecoder(writer.finish())
    assert [decoder.pop_uniform(cardinality) for _ in range(12)] == values.tolist()
    assert decoder.is_empty


@pytest.mark.parametrize("cardinality", [1, 2, 3, 4, 17, 256])
@pytest.mark.parametrize("largest", [1, 2**30])
def test_the_plain_python_decoder_reads_rows(cardinality: int, largest: int) -> None:
    values = scrambled(64, cardinality, seed=11)
    values[:2] = 0, cardinality - 1
    weights = scrambled(64 * cardinality, largest, seed=12).reshape(64, cardinality)
    weights[:, -1] += 1
    weights[5:9] = 0
    weights[5:9, cardinality // 2] = MAX_WEIGHT
    writer, meter = Writer(), Meter()
    for coder in (writer, meter):
        coder.rows("r", values, weights)
        coder.rows("none", np.zeros(0, int), np.zeros((0, 3), np.int64))
        coder.uniform("u", values[:5], cardinality, (5,))
    payload = writer.finish()
    decoder = ReferenceDecoder(payload)
    for row, value in zip(weights.tolist(), values.tolist(), strict=True):
        sums = [sum(row[:k]) * (TOTAL - cardinality) // sum(row) + k for k in range(len(row) + 1)]
        frequencies = [end - start for start, end in zip(sums[:-1], sums[1:], strict=True)]
        assert min(frequencies) >= 1
        assert sum(frequencies) == TOTAL
        assert cardinality == 1 or decoder.pop(frequencies) == value
    assert [decoder.pop_uniform(cardinality) for _ in range(5)] == values[:5].tolist()
    assert decoder.is_empty
    reader = Reader(payload)
    assert reader.rows("r", None, weights).tolist() == values.tolist()
    assert reader.rows("none", None, np.zeros((0, 3), np.int64)).shape == (0,)
    reader.uniform("u", None, cardinality, (5,))
    reader.finish()
    assert reader.digest() == writer.digest()
    assert reader.bits == pytest.approx(writer.bits)
    assert meter.bits == pytest.approx(writer.bits)
    assert 8 * len(payload) == pytest.approx(writer.total_bits, rel=0.001, abs=64)


def test_rows_that_do_not_fit_are_refused() -> None:
    fitting = np.ones((3, 4), np.int64)
    zeros = np.zeros(3, int)
    cases: list[tuple[NDArray[np.int64], NDArray[Any]]] = [
        (zeros + 4, fitting),
        (zeros - 1, fitting),
        (np.zeros(2, int), fitting),
        (zeros, fitting.astype(np.int32)),
        (zeros, fitting * 0),
        (zeros, fitting - 2),
        (zeros, fitting * 2**38),
        (zeros, fitting * 2**62),
        (zeros, np.ones((3, 4, 1), np.int64)),
        (zeros, np.ones((3, 0), np.int64)),
    ]
    for values, weights in cases:
        for coder in (Writer(), Meter()):
            with pytest.raises(ValueError, match="values|weight|cardinality"):
                coder.rows("r", values, weights)
    with pytest.raises(ValueError, match="weight"):
        Reader(b"").rows("r", None, fitting * 0)


# ---- damage


def damaged(payload: bytes) -> Iterable[bytes]:
    for length in range(len(payload)):
        yield payload[:length]
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    yield payload + b"\1"
    yield payload + b"\0"


def test_every_truncation_and_bit_flip_is_an_error_or_another_digest() -> None:
    writer = write_small()
    payload = writer.finish()
    for wrong in damaged(payload):
        try:
            digest = read_small(wrong).digest()
        except DesyncError:
            continue
        assert digest != writer.digest()


def test_reading_too_little_is_a_desync() -> None:
    reader = Reader(write_small().finish())
    reader.symbols("y", None, small_walk()[0], SMALL)
    with pytest.raises(DesyncError):
        reader.finish()


def test_an_escaped_value_out_of_range_is_a_desync() -> None:
    near = tables_from_pmf([(0, [0.5])])
    far = tables_from_pmf([(MAX_MAGNITUDE, [0.5])])
    writer = Writer()
    writer.symbols("y", np.full(4, MAX_MAGNITUDE), np.zeros(4, int), near)
    with pytest.raises(DesyncError):
        Reader(writer.finish()).symbols("y", None, np.zeros(4, int), far)


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=60)
def test_arbitrary_bytes_give_symbols_in_range_or_a_desync(data: bytes) -> None:
    index = np.arange(640) % 64
    try:
        reader = Reader(data)
        values = reader.symbols("y", None, index, GAUSSIAN)
        colours = reader.uniform("u", None, 300, (50,))
        reader.finish()
    except DesyncError:
        return
    assert np.abs(values).max() <= MAX_MAGNITUDE
    assert 0 <= colours.min() <= colours.max() < 300


def test_noise_full_of_escapes_is_read_within_bounded_memory() -> None:
    all_escape = Tables(
        np.array([1, TOTAL - 1], np.int32), np.array([0, 2], np.int32), np.array([0], np.int32)
    )
    data = np.random.default_rng(1).bytes(300_000)[:-1] + b"\1"
    index = np.zeros(200_000, dtype=np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(DesyncError):
            Reader(data).symbols("y", None, index, all_escape)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


# ---- size


def test_the_meter_predicts_the_size_of_a_big_walk_within_one_percent() -> None:
    values, index = gaussian_data((64, 32, 48))
    writer, meter = Writer(), Meter()
    for coder in (writer, meter):
        coder.symbols("y", values, index, GAUSSIAN)
        coder.uniform("u", np.arange(3000) % 300, 300, (3000,))
    assert 8 * len(writer.finish()) == pytest.approx(meter.total_bits, rel=0.001, abs=32)
    assert set(meter.bits) == {"y", "u"}
    assert meter.bits["u"] == pytest.approx(3000 * np.log2(300), rel=1e-4)


def test_the_cost_of_escapes_is_counted() -> None:
    values = scrambled(2000, 2 * MAX_MAGNITUDE, seed=9) - MAX_MAGNITUDE
    index = scrambled(2000, 4, seed=10)
    writer = Writer()
    writer.symbols("y", values, index, SMALL)
    assert 8 * len(writer.finish()) == pytest.approx(writer.total_bits, rel=0.001)


def test_gaussian_tables_cost_close_to_the_entropy() -> None:
    values, index = gaussian_data((100_000,))
    index[:], values[:] = 40, np.round(np.random.default_rng(3).normal(0, 1, 100_000) * 15.074)
    meter = Meter()
    meter.symbols("y", values, index, GAUSSIAN)
    assert meter.total_bits / 100_000 == pytest.approx(np.log2(15.074 * 4.1327), rel=0.005)


# ---- arguments


@pytest.mark.parametrize("coder", [Writer(), Meter()])
def test_a_walk_that_does_not_fit_is_refused(coder: Coder) -> None:
    index = np.zeros(3, int)
    for values, table_index in [
        (None, index),
        (np.zeros(4, int), index),
        (np.zeros(3), index),
        (np.zeros(3, int), np.zeros(3)),
        (np.zeros(3, int), index + 64),
        (np.zeros(3, int), index - 1),
        (np.full(3, MAX_MAGNITUDE + 1), index),
        (np.full(3, -MAX_MAGNITUDE - 1), index),
        (np.full(3, 2**40), index),
    ]:
        with pytest.raises(ValueError, match="values|index|indices"):
            coder.symbols("y", values, table_index, GAUSSIAN)
    for values, cardinality in [(index + 2, 2), (index - 1, 2), (index, 0), (index, 2**16 + 1)]:
        with pytest.raises(ValueError, match="values|cardinality"):
            coder.uniform("u", values, cardinality, (3,))


# ---- tables


def test_gaussian_tables_are_symmetric_and_end_in_a_rare_escape() -> None:
    assert len(GAUSSIAN) == 64
    for low, frequencies in plain(GAUSSIAN):
        inner = np.array(frequencies[:-1])
        assert len(inner) == 1 - 2 * low
        assert np.abs(inner - inner[::-1]).max() <= 1
        assert inner.max() == inner[-low]
        assert sum(frequencies) == TOTAL
        assert 1 <= frequencies[-1] <= 32


def test_what_a_pmf_lacks_goes_to_the_escape() -> None:
    tables = tables_from_pmf([(-3, [0.25, 0.25, 0.25]), (5, [2.0, 6.0]), (0, [0.0, 0.0, 0.0])])
    assert tables.lows.tolist() == [-3, 5, 0]
    frequencies = plain(tables)
    assert frequencies[0][1] == [2**22] * 4
    assert frequencies[1][1][0] == pytest.approx(2**22, abs=2)
    assert frequencies[1][1][-1] == 1
    assert frequencies[2][1] == [1, 1, 1, TOTAL - 3]


@pytest.mark.parametrize("pmf", [[], [-0.1, 0.5], [float("nan")], [float("inf")]])
def test_an_impossible_pmf_is_refused(pmf: list[float]) -> None:
    with pytest.raises(ValueError, match="pmf"):
        tables_from_pmf([(0, pmf)])


def test_tables_come_back_from_their_arrays() -> None:
    again = Tables.from_arrays(GAUSSIAN.arrays("g"), "g")
    assert again.digest() == GAUSSIAN.digest()
    assert again.digest() != SMALL.digest()
    with pytest.raises(WeightsError, match=r"h\.frequencies"):
        Tables.from_arrays(GAUSSIAN.arrays("g"), "h")


def test_tables_that_have_coded_can_be_pickled_and_copied() -> None:
    write_small()
    assert pickle.loads(pickle.dumps(SMALL)).digest() == SMALL.digest()
    assert copy.deepcopy(SMALL).digest() == SMALL.digest()


def test_the_digest_of_tables_is_pinned() -> None:
    assert SMALL.digest().hex() == PINNED_TABLES


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("frequencies", [TOTAL - 1, 2, 5, TOTAL - 5]),
        ("frequencies", [TOTAL, 0, 5, TOTAL - 5]),
        ("frequencies", [TOTAL + 1, -1, 5, TOTAL - 5]),
        ("frequencies", [TOTAL - 1, 1, 5, TOTAL - 5, 1]),
        ("starts", [0, 1, 4]),
        ("starts", [0, 4, 4]),
        ("starts", [0, 6, 4]),
        ("starts", [2, 2, 4]),
        ("starts", [0, 4]),
        ("starts", [0, 2, -4]),
        ("lows", [0, MAX_MAGNITUDE + 1]),
        ("lows", [-MAX_MAGNITUDE - 1, 0]),
        ("lows", [0, 2**31 - 1]),
        ("lows", [0]),
        ("lows", []),
        ("lows", [[0, 0]]),
    ],
)
def test_unsound_tables_are_a_weights_error(field: str, wrong: list[int]) -> None:
    sound: dict[str, NDArray[Any]] = {
        "frequencies": np.array([TOTAL - 1, 1, 5, TOTAL - 5], np.int32),
        "starts": np.array([0, 2, 4], np.int32),
        "lows": np.array([0, 0], np.int32),
    }
    Tables(**sound)
    with pytest.raises(WeightsError):
        Tables(**{**sound, field: np.array(wrong, np.int32)})
    with pytest.raises(WeightsError):
        Tables(**{**sound, field: sound[field].astype(np.int64)})


def test_tables_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        SMALL.frequencies[0] = 1


PINNED_WORDS = """
    9d0000af 602a7e34 3205fff5 20412321 13630da6 ddf24222 fcf62b61 eee3ef3d c6dfdefe e59f7df9
    558aad8a b6d1dc77 8b463736 32ffffff ffffffff ff000001 ff000001 ffffffff ff000001 fffffffe
    0fffffff 00ffffff 00000000 00ffffff 21f2b236 8f56f9ae a8ffffff 77ffffff 3d6a36b8 2ffffffe
    e1000001 ddffffff 01ffffff 00efffff 00ffffff ffffffff ffbfffff ff3fffff c6e4b5fd ffffffff
    53e8125c 10ffffff 20ffffff ffffffff ffffffff 00020aff ffffffff ffffffff ffffffff ffffffff
    ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 00020bff 0000020c
"""
PINNED_DIGEST = "c103090af206ba00a914811e77dfa5466b93eabbdba9505880e8c73b3b73ec0a"
PINNED_TABLES = "4edca6ae8efcf79c9e91ba9b7c6c6d2948fd1fb282faa20c9b4afd7f83874ad4"
