"""Palettes and index maps of the palette family come back exactly, and damage is an error."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from cdcodec.codec import IntArray
from cdcodec.entropy import Meter, Reader, Writer
from cdcodec.errors import BitstreamError, CdcError, DesyncError, WeightsError
from cdcodec.families.palette import chain, clut
from cdcodec.families.palette.indices import DEFAULT, IndexModel, code


def latent(rows: int, columns: int, groups: int = 3, seed: int = 0) -> list[IntArray]:
    """Make smooth fields with noise, [rows * columns, 3] each, wide in the first group."""
    rng = np.random.default_rng(seed)
    fields = []
    for g in range(groups):
        walk = rng.normal(0, 40 / (g + 1), (rows + 8, columns + 8, 3))
        rolled = [np.roll(walk, (i, j), (0, 1)) for i in range(4) for j in range(4)]
        smooth = np.sum(rolled, axis=0) / 4
        noise = rng.laplace(0, 4, (rows, columns, 3))
        values = 128 + smooth[4 : rows + 4, 4 : columns + 4] + noise
        fields.append(np.clip(np.rint(values), 0, 255).astype(np.int32).reshape(-1, 3))
    return fields


def link(rows: int, columns: int, total: int, seed: int = 0) -> tuple[list[IntArray], IntArray]:
    """Make the palettes and index maps of three groups with so many entries."""
    starts = [chain.quantise(field) for field in latent(rows, columns, seed=seed)]
    palettes, maps = chain.Chain([palette for palette, _ in starts], [1, 1, 1]).at(total)
    index = np.stack([m[i] for m, (_, i) in zip(maps, starts, strict=True)])
    colours = [palette.colours.astype(np.int32) for palette in palettes]
    return colours, index.reshape(3, rows, columns)


def random_palette(rng: np.random.Generator, entries: int, channels: int = 3) -> IntArray:
    numbers = rng.choice(256**channels, entries, replace=False)
    numbers.sort()
    places = 256 ** np.arange(channels - 1, -1, -1)
    return (numbers[:, None] // places % 256).astype(np.int32)


# ---- index maps


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 2), (5, 3), (3, 8), (16, 24)])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 1, 3), (1, 2), (3, 256, 1), (256, 2, 40), (5,)])
def test_index_maps_of_any_shape_come_back(shape: tuple[int, int], sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    palettes = [random_palette(rng, size, 2) for size in sizes]
    index = np.stack([rng.integers(0, size, shape) for size in sizes]).astype(np.int32)
    writer = Writer()
    assert (code(writer, index, palettes, *shape, DEFAULT) == index).all()
    reader = Reader(writer.finish())
    got = code(reader, None, palettes, *shape, DEFAULT)
    reader.finish()
    assert got.dtype == np.int32
    assert (got == index).all()
    assert reader.digest() == writer.digest()
    assert set(writer.bits) == ({"index"} if max(sizes) > 1 else set())


def test_single_entries_cost_nothing() -> None:
    rng = np.random.default_rng(1)
    palettes = [random_palette(rng, 1), random_palette(rng, 1)]
    writer = Writer()
    code(writer, np.zeros((2, 4, 6), np.int32), palettes, 4, 6, DEFAULT)
    assert writer.finish() == b""
    assert writer.total_bits == 0


@pytest.mark.parametrize("total", [12, 60, 300])
def test_the_meter_counts_what_the_writer_writes(total: int) -> None:
    palettes, index = link(24, 36, total)
    writer, meter = Writer(), Meter()
    for coder in (writer, meter):
        code(coder, index, palettes, 24, 36, DEFAULT)
    payload = writer.finish()
    assert 8 * len(payload) == pytest.approx(meter.total_bits, rel=0.01, abs=40)
    assert writer.bits == pytest.approx(meter.bits)
    again = Writer()
    code(again, index, palettes, 24, 36, DEFAULT)
    assert again.finish() == payload
    reader = Reader(payload)
    assert (code(reader, None, palettes, 24, 36, DEFAULT) == index).all()
    reader.finish()


def test_contexts_beat_counts_of_entries() -> None:
    palettes, index = link(32, 48, 48)
    meter = Meter()
    code(meter, index, palettes, 32, 48, DEFAULT)
    order_0 = 0.0
    for each in index:
        share = np.bincount(each.ravel()) / each.size
        order_0 -= each.size * (share[share > 0] * np.log2(share[share > 0])).sum()
    assert meter.total_bits < 0.9 * order_0


def test_damaged_index_maps_stay_within_their_palettes() -> None:
    palettes, index = link(8, 12, 30)
    writer = Writer()
    code(writer, index, palettes, 8, 12, DEFAULT)
    payload = writer.finish()
    for wrong in list(damaged(payload))[::41]:
        try:
            reader = Reader(wrong)
            got = code(reader, None, palettes, 8, 12, DEFAULT)
            reader.finish()
        except DesyncError:
            continue
        assert (got != index).any()
        assert all(0 <= m.min() and m.max() < len(p) for m, p in zip(got, palettes, strict=True))


class LastEntry(Reader):
    """Reads the last of all entries that a row has, whatever the stream holds."""

    def rows(
        self, name: str, values: IntArray | None, weights: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        return np.full(len(weights), weights.shape[1] - 1, np.int32)


def test_an_entry_that_a_smaller_palette_lacks_is_a_desync() -> None:
    # Rows are as long as the largest palette.
    rng = np.random.default_rng(1)
    palettes = [random_palette(rng, 9), random_palette(rng, 2)]
    assert (code(LastEntry(b""), None, palettes[:1], 4, 4, DEFAULT) == 8).all()
    with pytest.raises(DesyncError, match="names an entry that its palette lacks"):
        code(LastEntry(b""), None, palettes, 4, 4, DEFAULT)


def test_the_bits_of_a_fixed_map_never_change() -> None:
    # A failure here means that old files would not decode.
    rng = np.random.Generator(np.random.Philox(key=7))
    palettes = [np.arange(90, dtype=np.int32).reshape(30, 3), np.array([[0, 9, 1], [4, 4, 4]])]
    raw = rng.bit_generator.random_raw(2 * 6 * 10).astype(np.int64) & 0xFFFF
    index = (raw.reshape(2, 6, 10) % np.array([30, 2])[:, None, None]).astype(np.int32)
    writer = Writer()
    code(writer, index, [p.astype(np.int32) for p in palettes], 6, 10, DEFAULT)
    assert writer.finish().hex() == PINNED


def test_a_model_comes_back_from_its_arrays() -> None:
    arrays = DEFAULT.arrays()
    assert all(name.startswith("exact.") for name in arrays)
    assert IndexModel.from_arrays(arrays).digest() == DEFAULT.digest()
    for name, array in arrays.items():
        others = {key: value for key, value in arrays.items() if key != name}
        with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
            IndexModel.from_arrays(others)
        wrong: NDArray[np.generic]
        for wrong in (array.astype(np.int64), array[None], array[:0], array - 2**22):
            with pytest.raises(WeightsError):
                IndexModel.from_arrays({**others, name: wrong})
        changed = IndexModel.from_arrays({**others, name: np.append(array[:-1], array[-1] - 1)})
        assert changed.digest() != DEFAULT.digest()


# ---- colours


def damaged(payload: bytes) -> Iterable[bytes]:
    for length in range(len(payload)):
        yield payload[:length]
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    yield payload + b"\0"
    yield payload + b"\1"


@pytest.mark.parametrize("sizes", [(1,), (2,), (3, 1), (256, 256, 256), (32, 7, 4), (1, 1, 1)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_palettes_come_back(sizes: tuple[int, ...], channels: int) -> None:
    rng = np.random.default_rng(2)
    palettes = [random_palette(rng, size, channels) for size in sizes]
    payload = clut.pack(palettes)
    got = clut.unpack(payload, len(sizes), channels)
    assert all(a.dtype == np.int32 and (a == b).all() for a, b in zip(got, palettes, strict=True))
    assert clut.pack(got) == payload


def test_extreme_palettes_come_back() -> None:
    for palette in (
        [[0, 0, 0], [255, 255, 255]],
        [[255, 255, 254], [255, 255, 255]],
        [[7, 0, i] for i in range(256)],
        [[i, 255 - i, 0] for i in range(256)],
    ):
        colours = np.array(palette, np.int32)
        assert (clut.unpack(clut.pack([colours]), 1, 3)[0] == colours).all()


def test_a_palette_of_32_takes_less_than_its_colours() -> None:
    rng = np.random.default_rng(4)
    points = np.clip(rng.normal(128, [50, 20, 15], (2000, 3)), 0, 255).astype(np.int32)
    palette, _ = chain.quantise(points, 32)
    assert len(clut.pack([palette.colours.astype(np.int32)])) < 0.85 * 96


def test_palettes_that_break_the_rules_are_not_packed() -> None:
    for wrong in ([[1, 2], [1, 1]], [[1, 2], [1, 2]], [[0, 256]], [[-1, 0]]):
        with pytest.raises(ValueError, match="palette"):
            clut.pack([np.array(wrong, np.int32)])
    with pytest.raises(ValueError, match="palette"):
        clut.pack([np.arange(257, dtype=np.int32)[:, None] // 2])


def test_damaged_colours_are_an_error_or_others() -> None:
    palettes, _ = link(16, 16, 9)
    payload = clut.pack(palettes)
    for wrong in damaged(payload):
        try:
            got = clut.unpack(wrong, 3, 3)
        except CdcError as error:
            assert isinstance(error, (BitstreamError, DesyncError))  # noqa: PT017
            continue
        assert clut.pack(got) == wrong


def test_colours_that_are_no_set_are_refused() -> None:
    for noise in range(24):
        payload = np.random.default_rng(noise).bytes(noise + 1)
        with pytest.raises((BitstreamError, DesyncError)):
            clut.unpack(payload, 3, 3)


# ---- the chain


def test_a_link_gives_the_rest_of_its_chain() -> None:
    starts = [chain.quantise(field) for field in latent(24, 36)]
    weights = [1, 3, 2]
    whole = chain.Chain([palette for palette, _ in starts], weights)
    palettes, maps = whole.at(200)
    index = [m[i] for m, (_, i) in zip(maps, starts, strict=True)]
    counted = [
        chain.counted(palette.colours.astype(np.int32), i)
        for palette, i in zip(palettes, index, strict=True)
    ]
    rest = chain.Chain(counted, weights)
    for total in (199, 150, 100, 50, 10, 3):
        (ours, our_maps), (theirs, their_maps) = whole.at(total), rest.at(total)
        for g in range(3):
            assert (ours[g].colours == theirs[g].colours).all()
            assert (ours[g].counts == theirs[g].counts).all()
            assert (our_maps[g][starts[g][1]] == their_maps[g][index[g]]).all()


def test_a_chain_keeps_every_position_and_ends_with_one_entry_a_group() -> None:
    starts = [chain.quantise(field) for field in latent(10, 12)]
    whole = chain.Chain([palette for palette, _ in starts], [1, 1, 1])
    for total in (whole.total, 60, 20, 3, 1):
        palettes, _ = whole.at(total)
        assert all(palette.counts.sum() == 120 for palette in palettes)
        assert all((np.diff(chain.keys(palette.colours)) > 0).all() for palette in palettes)
        assert sum(map(len, palettes)) <= max(total, 3)
    assert [len(palette) for palette in palettes] == [1, 1, 1]


def test_few_colours_are_their_own_palette() -> None:
    rng = np.random.default_rng(3)
    colours = random_palette(rng, 200)
    index = np.append(rng.integers(0, 200, 1000), np.arange(200))
    palette, assigned = chain.quantise(colours[index])
    assert (palette.colours == colours).all()
    assert (assigned == index).all()
    assert (palette.counts == np.bincount(index)).all()


PINNED = (
    "e5d002a019f4cd79fa6dc2d2c7d4a9358616fe2bb683fbada20773f3bc66a7847c8fae051d938bbd2d747458"
    "56f1e7cfaeab5989cd"
)
