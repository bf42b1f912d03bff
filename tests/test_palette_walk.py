"""The palette family's integers: what is coded, what is refused, and that files can shrink."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType, Container, Header
from cdcodec.codec import Latents, ScalableWalk, SideWalk
from cdcodec.entropy.coder import Meter, Reader, Writer
from cdcodec.errors import BitstreamError, CdcError, DesyncError, InputError, WeightsError
from cdcodec.families.palette import indices
from cdcodec.families.palette.chain import MAX_ENTRIES, check_size
from cdcodec.families.palette.indices import DEFAULT
from cdcodec.families.palette.ladder import MOST_STEPS, heights, steps_at, steps_below
from cdcodec.families.palette.walk import PaletteWalk, shape_of

ENCODER = bytes(range(8))
WALK = PaletteWalk(2, 2, (16, 9), DEFAULT, ENCODER)
WIDTH, HEIGHT = 221, 181
SIZES = [(1, 1), (8, 8), (1, 70), (70, 1), (9, 17), (130, 66), (WIDTH, HEIGHT)]
POINTS = [0, 1, 40, 127, 255]


def latent(width: int, height: int, channels: int = 4, seed: int = 0) -> NDArray[np.int32]:
    """Return made-up z [channels, rows, columns] in 0..255: smooth, with some texture."""
    draw = np.random.default_rng(seed)
    rows, columns = shape_of(width, height)
    field = draw.normal(size=(channels, rows + 8, columns + 8))
    for axis in (1, 2) * 4:
        field = (field + np.roll(field, 1, axis)) / 2
    field = field[:, 4:-4, 4:-4]
    z = 128 + 180 * field + draw.normal(scale=4, size=field.shape)
    return np.clip(np.rint(z), 0, 255).astype(np.int32)


def latents_at(
    points: Sequence[int], width: int = WIDTH, height: int = HEIGHT, walk: PaletteWalk = WALK
) -> list[Latents]:
    """Return the latents of an encoder at some rate points, all of one start."""
    start = walk.start(latent(width, height, walk.groups * walk.channels))
    return [walk.latents_at(start, point) for point in points]


def file_of(
    latents: Latents,
    point: int,
    width: int = WIDTH,
    height: int = HEIGHT,
    walk: PaletteWalk = WALK,
    extras: Sequence[Chunk] = (),
) -> bytes:
    """Return the file of an encoder, put together without one."""
    writer = Writer()
    walk.code(writer, latents, width, height, point)
    (clut,) = walk.pack(latents).values()
    chunks = Chunk(ChunkType.LATENTS, writer.finish()), Chunk(ChunkType.CLUT, clut), *extras
    return box.write(Container(Header(5, walk.model_id, width, height, point, 8), chunks))


def shrink(latents: Latents, source: int, point: int) -> Latents:
    """Return what the latents of a file of one point become at another."""
    return WALK.shrinker(latents, source).latents(point)


def told(latents: Latents) -> Latents:
    return WALK.unpack(WALK.pack(latents))


def same(a: Latents, b: Latents) -> None:
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype == np.int32
        np.testing.assert_array_equal(a[name], b[name])


def test_rate_points_rise_from_one_entry_a_group_to_all_that_palettes_hold() -> None:
    for groups in (1, 2, 3, 8):
        of_points = heights(groups)
        assert len(of_points) == WALK.rate_points
        assert (of_points[0], of_points[-1]) == (0, groups * steps_below(MAX_ENTRIES))
        assert all(np.diff(of_points) >= 1)
    assert steps_below(1) == 0
    assert steps_below(3) == 2 * steps_at(2)  # those of a palette of three, and of one of two


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_a_reader_gets_the_latents_that_were_written(size: tuple[int, int]) -> None:
    assert isinstance(WALK, SideWalk)
    for point, latents in zip(POINTS, latents_at(POINTS, *size), strict=True):
        writer, meter = Writer(), Meter()
        same(WALK.code(writer, latents, *size, point), latents)
        WALK.code(meter, latents, *size, point)
        payload = writer.finish()
        reader = Reader(payload)
        same(WALK.code(reader, told(latents), *size, point), latents)
        reader.finish()
        assert reader.digest() == writer.digest()
        assert reader.bits == pytest.approx(writer.bits)
        assert meter.total_bits <= 8 * len(payload) <= meter.total_bits * 1.01 + 40


def test_the_latents_are_palettes_and_maps_that_use_them() -> None:
    for point, latents in zip(POINTS, latents_at(POINTS), strict=True):
        assert list(latents) == ["palette_0", "palette_1", "index"]
        palettes = [latents[f"palette_{g}"] for g in range(2)]
        made = sum(steps_below(len(palette)) for palette in palettes) - heights(2)[point]
        assert 0 <= made < MOST_STEPS
        assert latents["index"].shape == (2, *shape_of(WIDTH, HEIGHT))
        for palette, index in zip(palettes, latents["index"], strict=True):
            assert palette.shape == (len(palette), 2)
            assert (np.unique(palette, axis=0) == palette).all()
            assert set(index.ravel()) == set(range(len(palette)))


def test_more_entries_come_nearer_to_the_latent() -> None:
    z = latent(WIDTH, HEIGHT).reshape(2, 2, -1)
    errors = []
    for latents in latents_at(POINTS):
        restored = [latents[f"palette_{g}"][latents["index"][g].ravel()].T for g in range(2)]
        errors.append(np.square(np.stack(restored) - z).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 50


# Files shrink


@pytest.mark.parametrize("start", [255, 200, 133, 132, 90, 33, 1, 0])
def test_what_a_file_shrinks_to_is_what_an_encoder_writes(start: int) -> None:
    assert isinstance(WALK, ScalableWalk)
    points = [point for point in (0, 1, 2, 17, 33, 88, 89, 131, 133, 199, 200) if point <= start]
    whole, *expected = latents_at([start, *points])
    shrinker = WALK.shrinker(whole, start)
    for point, latents in zip(points, expected, strict=True):
        same(shrinker.latents(point), latents)
        same(shrink(whole, start, point), latents)
    assert file_of(shrinker.latents(points[-1]), points[-1]) == file_of(expected[-1], points[-1])


def test_shrinking_often_is_shrinking_once() -> None:
    whole, expected = latents_at([220, 5])
    latents = whole
    for source, point in itertools.pairwise([220, 150, 101, 100, 77, 64, 40, 5]):
        latents = shrink(latents, source, point)
    same(latents, expected)


def test_between_links_one_entry_loses_positions_to_another() -> None:
    partly = 0
    for lower, upper in itertools.pairwise(latents_at(range(10, 50))):
        moved = 0
        for g in range(2):
            sizes = len(lower[f"palette_{g}"]), len(upper[f"palette_{g}"])
            # What became what: entries keep their positions, but may change their place.
            became = {*zip(upper["index"][g].ravel(), lower["index"][g].ravel(), strict=True)}
            if sizes[0] == sizes[1]:
                assert len(became) - sizes[1] in (0, 1)
                moved += len(became) - sizes[1]
        assert moved <= 1
        partly += moved
    assert partly > 15


def test_estimates_rise_with_sizes() -> None:
    points = [10, 60, 120, 180, 255]
    whole = latents_at([255])[0]
    shrinker = WALK.shrinker(whole, 255)
    sizes = [len(file_of(shrinker.latents(point), point)) for point in points]
    ratios = [shrinker.estimate(p) / size for p, size in zip(points, sizes, strict=True)]
    assert max(ratios) < 2 * min(ratios)


def test_nothing_grows() -> None:
    (small,) = latents_at([50])
    for point in (50, 51, 255):
        same(shrink(small, 50, point), small)


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_a_latent_of_few_colours_needs_no_more_entries(colours: int) -> None:
    z = np.repeat(np.arange(48)[None] % colours * 40, 4, 0).reshape(4, 6, 8).astype(np.int32)
    start = WALK.start(z)
    at = [WALK.latents_at(start, point) for point in (255, 100, 0)]
    assert [len(latents["palette_0"]) for latents in at] == [colours, colours, 1]
    same(at[0], at[1])
    same(shrink(at[0], 255, 0), at[2])


def test_a_latent_beyond_64_bits_is_refused_before_any_work() -> None:
    huge = np.broadcast_to(np.int32(0), (4, 5000, 5000))
    with pytest.raises(InputError, match="25,000,000 positions"):
        WALK.start(huge)
    few = np.zeros((1, 2), np.int32)
    vast = {"palette_0": few, "palette_1": few, "index": huge[:2]}
    with pytest.raises(InputError, match="too large"):
        shrink(vast, 3, 0)
    # The largest image that readers take by default, and what an axis adds by rounding up.
    check_size(box.MAX_PIXELS // 64 + 2 * box.MAX_SIDE // 8, 3)


# What no encoder writes


def test_palettes_must_be_told_before_the_maps_are_read() -> None:
    with pytest.raises(ValueError, match="before their palettes"):
        WALK.code(Reader(b""), None, 8, 8, 0)


def test_palettes_above_the_rate_point_are_refused() -> None:
    (latents,) = latents_at([90])
    for coder, known in ((Writer(), latents), (Reader(b""), told(latents))):
        with pytest.raises(BitstreamError, match=r"palettes have \d+ entries, too many for .* 40"):
            WALK.code(coder, known, WIDTH, HEIGHT, 40)


def test_an_entry_that_is_nowhere_in_its_map_is_a_desync() -> None:
    (latents,) = latents_at([133])
    index = latents["index"].copy()
    index[1][index[1] == 3] = 4
    palettes = [latents[f"palette_{g}"] for g in range(2)]
    writer = Writer()
    size = shape_of(WIDTH, HEIGHT)
    indices.code(writer, index, palettes, *size, WALK.index_model)
    with pytest.raises(DesyncError, match="palette 1 has an entry that is nowhere"):
        WALK.code(Reader(writer.finish()), told(latents), WIDTH, HEIGHT, 133)


def test_more_entries_than_positions_are_refused() -> None:
    (latents,) = latents_at([133])
    with pytest.raises(BitstreamError, match="more entries than the image has positions"):
        WALK.code(Reader(b"\x01"), told(latents), 8, 8, 133)


def test_a_stream_that_was_written_with_other_palettes_is_a_desync() -> None:
    latents, other = latents_at([60, 90])
    writer = Writer()
    WALK.code(writer, other, WIDTH, HEIGHT, 90)
    reader = Reader(writer.finish())
    with pytest.raises(DesyncError):  # noqa: PT012 (either finds it)
        WALK.code(reader, told(latents), WIDTH, HEIGHT, 90)
        reader.finish()


def test_a_chunk_that_does_not_hold_palettes_is_refused() -> None:
    (latents,) = latents_at([20])
    (payload,) = WALK.pack(latents).values()
    for length in range(len(payload)):
        with pytest.raises(CdcError):
            WALK.unpack({ChunkType.CLUT: payload[:length]})
    with pytest.raises(CdcError):
        WALK.unpack({ChunkType.CLUT: payload + b"\1"})


# Weight files


def test_every_parameter_is_in_the_model_id() -> None:
    arrays = DEFAULT.arrays()
    ids = {WALK.model_id}
    ids.add(PaletteWalk(3, 2, (16, 9, 9), DEFAULT, ENCODER).model_id)
    ids.add(PaletteWalk(2, 3, (16, 9), DEFAULT, ENCODER).model_id)
    ids.add(PaletteWalk(2, 2, (16, 10), DEFAULT, ENCODER).model_id)
    ids.add(PaletteWalk(2, 2, (16, 9), DEFAULT, bytes(8)).model_id)
    assert len(ids) == 5
    assert arrays.keys() <= WALK.arrays().keys()
    assert all(name.startswith("exact.") for name in WALK.arrays())


def test_a_walk_comes_back_from_its_weight_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({**WALK.arrays(), "encoder.weight": np.zeros(3, np.float16)}, path)
    again = PaletteWalk.load(path)
    assert again.model_id == WALK.model_id
    assert (again.groups, again.channels, again.weights, again.encoder) == (2, 2, (16, 9), ENCODER)
    assert again.index_model.digest() == WALK.index_model.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exact.chain": None}, "doesn't say how its palettes are coded"),
        ({"exact.encoder": None}, "doesn't say how its palettes are coded"),
        ({"exact.chain": np.array([2, 2, 1, 1], np.int32)}, "in bytes"),
        ({"exact.chain": np.array([2, 2], np.uint8)}, "no groups"),
        ({"exact.chain": np.array([2, 2, 1], np.uint8)}, "not 2 numbers"),
        ({"exact.chain": np.array([2, 2, 1, 0], np.uint8)}, "not 2 numbers"),
        ({"exact.chain": np.array([0, 2, 1], np.uint8)}, "0 groups"),
        ({"exact.chain": np.array([1, 8, 1], np.uint8)}, "8 channels"),
        ({"exact.encoder": np.zeros(7, np.uint8)}, "8 bytes"),
        (dict.fromkeys(DEFAULT.arrays()), "ind"),
    ],
)
def test_a_weight_file_that_makes_no_walk_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    arrays = {**WALK.arrays(), **changes}
    path = tmp_path / "w.safetensors"
    save_file({name: array for name, array in arrays.items() if array is not None}, path)
    with pytest.raises(WeightsError, match=re.escape(message)):
        PaletteWalk.load(path)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot read weights"):
        PaletteWalk.load(path)


def test_a_file_is_its_header_the_maps_and_the_palettes() -> None:
    (latents,) = latents_at([70])
    file = box.read(file_of(latents, 70))
    assert [chunk.type for chunk in file.chunks] == [ChunkType.LATENTS, ChunkType.CLUT]
    again = box.write(replace(file, header=replace(file.header, point=70)))
    assert again == file_of(latents, 70)
