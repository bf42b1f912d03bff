"""Palettes and index maps of the palette family come back exactly, and damage is an error."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from cdcodec.bitstream.container import MAX_SIDE
from cdcodec.codec import IntArray
from cdcodec.entropy import Meter, Reader, Writer
from cdcodec.errors import BitstreamError, CdcError, DesyncError, WeightsError
from cdcodec.families.palette import chain, clut, indices
from cdcodec.families.palette.indices import DEFAULT, SEEN, IndexModel, code
from cdcodec.families.palette.ladder import Ladder, steps_below
from cdcodec.families.palette.walk import STRIDE


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
    whole = ladder_of(starts, rows, columns)
    height = next(h for h in itertools.count() if sum(map(len, whole.at(h + 1)[0])) > total)
    palettes, index = whole.at(height)
    return [palette.colours.astype(np.int32) for palette in palettes], index


def ladder_of(
    starts: Sequence[tuple[chain.Palette, IntArray]],
    rows: int,
    columns: int,
    weights: Sequence[int] = (1, 1, 1),
) -> Ladder:
    index = np.stack([assigned.reshape(rows, columns) for _, assigned in starts])
    return Ladder([palette for palette, _ in starts], index, weights)


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


def test_float32_is_exact_for_any_weight_file_and_image() -> None:
    # What a sum of products may come to must stay below 2**24, in whatever order it is made.
    positions = (MAX_SIDE // STRIDE + 1) ** 2
    known, learnt = (64 * (n.bit_length() - 1) + 64 for n in (2**21, 2**21 + SEEN * positions))
    contexts = 1 + len(indices.NEAR) + 1 + indices.MAX_GROUPS - 1
    assert (indices.ONE >> indices.FINE) * (contexts * learnt + 2 * known) < 2**24
    assert indices.SHARES * learnt < 2**24


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


def test_a_state_gives_all_that_follow() -> None:
    weights = [1, 3, 2]
    whole = ladder_of([chain.quantise(field) for field in latent(24, 36)], 24, 36, weights)
    for height in (800, 240, 121, 40):
        palettes, index = whole.at(height)
        made = sum(steps_below(len(palette)) for palette in palettes) - height
        counted = [
            chain.counted(palette.colours.astype(np.int32), group)
            for palette, group in zip(palettes, index, strict=True)
        ]
        rest = Ladder(counted, index, weights, made)
        for lower in range(height, -1, -19):
            (ours, our_maps), (theirs, their_maps) = whole.at(lower), rest.at(lower)
            assert (our_maps == their_maps).all()
            for a, b in zip(ours, theirs, strict=True):
                assert (a.colours == b.colours).all()
                assert (a.counts == b.counts).all()


def test_a_way_down_keeps_every_position_and_ends_with_one_entry_a_group() -> None:
    whole = ladder_of([chain.quantise(field) for field in latent(10, 12)], 10, 12)
    for height in (10**6, 300, 100, 31, 3, 1, 0):
        palettes, index = whole.at(height)
        for palette, group in zip(palettes, index, strict=True):
            assert (palette.counts == np.bincount(group.ravel())).all()
            assert palette.counts.min() > 0
            assert (np.diff(chain.keys(palette.colours)) > 0).all()
    assert [len(palette) for palette in palettes] == [1, 1, 1]


def test_the_way_down_of_a_fixed_latent_never_changes() -> None:
    # A failure here means that old files would shrink to others than they did.
    raw = np.random.Philox(key=11).random_raw(3 * 2 * 26 * 34).astype(np.int64) % 1024
    z = raw.reshape(3, 2, 26, 34)
    for axis in (2, 3):  # smooth, in integers
        z = sum(np.roll(z, shift, axis) for shift in range(4)) // 4
    starts = [chain.quantise((group // 4).reshape(2, -1).T.astype(np.int32)) for group in z]
    whole = ladder_of(starts, 26, 34, (24, 6, 5))
    digest = hashlib.sha256()
    for height in (700, 411, 260, 177, 120, 76, 41, 23, 8, 1):
        palettes, index = whole.at(height)
        for palette, group in zip(palettes, index, strict=True):
            digest.update(palette.colours.astype("<i4").tobytes())
            digest.update(group.astype("<i4").tobytes())
    assert digest.hexdigest() == WAY_DOWN


def test_an_entry_goes_from_its_edges_inwards() -> None:
    # One area of 6x6 and a grain, in a map of another entry.
    plane = np.zeros((1, 9, 12), np.int32)
    plane[0, 1:7, 1:7] = plane[0, 4, 10] = 1
    colours = np.array([[10, 10], [90, 90]], np.int64)
    ladder = Ladder([chain.Palette(colours, np.bincount(plane.ravel()))], plane, [1])
    assert steps_below(2) == 8
    left = [(ladder.at(height)[1] > 0).sum() for height in range(8, -1, -1)]
    # The grain and four corners are an eighth and more; eight corners are a seventh of the rest; so
    # it goes on until all that is left is alike, and stays for the last step.
    assert left == [37, 32, 24, 16, 12, 4, 4, 4, 0]
    assert not ladder.at(7)[1][0, 4, 10]


def test_few_colours_are_their_own_palette() -> None:
    rng = np.random.default_rng(3)
    colours = random_palette(rng, 200)
    index = np.append(rng.integers(0, 200, 1000), np.arange(200))
    palette, assigned = chain.quantise(colours[index])
    assert (palette.colours == colours).all()
    assert (assigned == index).all()
    assert (palette.counts == np.bincount(index)).all()


WAY_DOWN = "70b946902a1c2471ce1b8ac9024c8e0cab53bb497ace0820f2605fa78fdcf1fb"

PINNED = (
    "f01d0385b2f0c80b45defed7fd12ae588b47fdd6536efbbc8190135fb2bfa6ea1619aee89b1d8cc13303f06c"
    "ce4eebb5c9585a077d"
)
