"""The palette family's integers as formats/families.md tells them, by a reader of its own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import cdcodec
from cdcodec.api import read_latents
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType, Container
from cdcodec.codec import Latents
from cdcodec.entropy import Writer
from cdcodec.errors import BitstreamError, DesyncError
from cdcodec.families.palette import indices
from cdcodec.families.palette.ladder import heights
from cdcodec.families.palette.walk import PaletteWalk
from tests import reference_palette as reference
from tests.make_vectors import FOLDER
from tests.reference_rans import ReferenceDecoder
from tests.test_palette_walk import file_of, latent

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUNDLED = Path(cdcodec.__file__).parent / "bundled"
ENCODER = bytes(range(8))


def walk_of(
    groups: int, channels: int, index_model: indices.IndexModel = indices.DEFAULT
) -> PaletteWalk:
    return PaletteWalk(groups, channels, (16, 9, *[5] * groups)[:groups], index_model, ENCODER)


def vector(*numbers: int) -> NDArray[np.int32]:
    return np.array(numbers, np.int32)


STRANGE = indices.IndexModel(
    log=indices.DEFAULT.log,
    exp=indices.DEFAULT.exp,
    kernel=vector(2**21, 70_000, 900, 40, 3),
    activity=vector(5, 5, 40),
    priors=vector(7, 300, 2),
    exponents=vector(-(2**14) - 1, 2**16, 2**15 - 1, 0, 2**12, -(2**16), 2**14, 7001),
    rates=vector(2**15, 3, 0),
)
"""Numbers that reach every limit: a short kernel, hardly any priors, steps too large."""


@dataclass(frozen=True)
class Case:
    """An image of width x height pixels at a rate point."""

    walk: PaletteWalk
    width: int
    height: int
    point: int
    levels: Mapping[int, int] = field(default_factory=dict)
    """By group: how many values each of its channels has, if not all that there are."""

    @functools.cached_property
    def latents(self) -> Latents:
        """What an encoder finds."""
        z = latent(self.width, self.height, self.walk.groups * self.walk.channels)
        for group, levels in self.levels.items():
            channels = slice(group * self.walk.channels, (group + 1) * self.walk.channels)
            z[channels] = z[channels] * levels // 256 + 77
        return self.walk.latents_at(self.walk.start(z), self.point)

    @functools.cached_property
    def file(self) -> Container:
        """What it writes."""
        return box.read(file_of(self.latents, self.point, self.width, self.height, self.walk))


CASES = {
    "one position": Case(walk_of(2, 2), 3, 8, 40),
    "one entry a group": Case(walk_of(2, 2), 70, 50, 0),
    "part of a merge": Case(walk_of(2, 2), 150, 110, 34),
    "a row": Case(walk_of(2, 3), 300, 5, 150),
    "a column": Case(walk_of(2, 1), 8, 600, 150),
    "three groups": Case(walk_of(3, 3), 121, 75, 155),
    "first group of one entry": Case(walk_of(3, 2), 90, 90, 140, {0: 1}),
    "middle group of one entry": Case(walk_of(3, 2), 90, 90, 140, {1: 1}),
    "last group of one entry": Case(walk_of(3, 2), 90, 90, 140, {2: 1}),
    "one group of several entries": Case(walk_of(3, 2), 90, 90, 140, {0: 1, 2: 1}),
    "palettes of unlike sizes": Case(walk_of(3, 1), 110, 120, 255, {0: 3, 2: 2}),
    "256 entries": Case(walk_of(1, 2), 144, 128, 255),
    "eight groups": Case(walk_of(8, 1), 96, 90, 138),
    "strange numbers": Case(walk_of(3, 2, STRANGE), 130, 110, 145),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def payload(file: Container, kind: ChunkType) -> bytes:
    chunk = file.chunk(kind)
    assert chunk is not None
    return chunk


def plain(colours: NDArray[np.int32]) -> reference.Palette:
    return [tuple(colour) for colour in colours.tolist()]


def palettes_of(latents: Latents) -> list[reference.Palette]:
    return [plain(array) for name, array in latents.items() if name.startswith("palette_")]


def index_model(arrays: Mapping[str, NDArray[np.int32]]) -> reference.IndexModel:
    """Return what a weight file holds of it."""
    prefix = "exact.index_"
    return reference.IndexModel(
        **{name[len(prefix) :]: a.tolist() for name, a in arrays.items() if name.startswith(prefix)}
    )


def read(
    file: Container, groups: int, channels: int, model: reference.IndexModel
) -> tuple[list[reference.Palette], list[reference.Map]]:
    """Return palettes and maps of a file, whose streams end with them."""
    clut = reference.ClutReader(payload(file, ChunkType.CLUT), groups, channels)
    palettes = clut.read()
    assert clut.decoder.is_empty
    shape = -(-file.header.height // 8), -(-file.header.width // 8)
    latents = payload(file, ChunkType.LATENTS)
    index = reference.MapReader(latents, palettes, shape, model)
    maps = index.read()
    assert index.decoder.is_empty
    return palettes, maps


@pytest.mark.parametrize("entries", [1, 2, 3, 256, 1000])
@pytest.mark.parametrize("most", [2, 1000, 2**27])
def test_the_reference_reads_rows_of_weights(entries: int, most: int) -> None:
    draw = np.random.default_rng(entries)
    weights = draw.integers(0, most, (12, entries))
    weights[0], weights[:, draw.integers(entries)] = 0, most
    values = draw.integers(0, entries, len(weights))
    values[:3] = 0, entries - 1, entries // 2
    writer = Writer()
    writer.rows("any", values, weights)
    decoder = ReferenceDecoder(writer.finish())
    got = [reference.pop_weighted(decoder, row) for row in weights.tolist()]
    assert decoder.is_empty
    assert got == values.tolist()


@each_case
def test_the_reference_reads_what_was_written(case: Case) -> None:
    model = index_model(case.walk.arrays())
    palettes, maps = read(case.file, case.walk.groups, case.walk.channels, model)
    assert palettes == palettes_of(case.latents)
    assert maps == case.latents["index"].tolist()


@each_case
def test_the_digest_of_all_symbols_is_the_reference_s(case: Case) -> None:
    _, reader = read_latents(case.file, case.walk)
    digest = reference.symbols_digest(palettes_of(case.latents), case.latents["index"].tolist())
    assert reader.digest() == digest.hex()


def test_the_reference_reads_the_vector() -> None:
    """Nothing of the package but the container has a part in this."""
    arrays = load_file(BUNDLED / "palette-tiny.safetensors")
    model = index_model(arrays)
    file = box.read((FOLDER / "palette-86x70.cdc").read_bytes())
    chain, encoder = arrays["exact.chain"].tolist(), arrays["exact.encoder"].tobytes()
    assert file.header.model_id == reference.model_id(chain, model, encoder)
    palettes, maps = read(file, chain[0], chain[1], model)
    expected = tomllib.loads((FOLDER / "palette-86x70.toml").read_text(encoding="utf-8"))
    assert reference.symbols_digest(palettes, maps).hex() == expected["symbols_sha256"]


class MapWriter(reference.MapReader):
    """Goes the way of a reader, and writes what each position is to have."""

    writer: Writer
    to_have: list[reference.Map]

    def pop(self, place: reference.Place, view: reference.View) -> int:
        g, x, y = place
        value = self.to_have[g][y][x]
        self.writer.rows("any", np.array([value]), np.array([view.weights]))
        self.maps[g][y][x] = min(value, len(self.palettes[g]) - 1)
        return self.maps[g][y][x]


def test_entries_that_a_palette_does_not_have_are_refused() -> None:
    case = Case(walk_of(2, 1), 40, 33, 255, {1: 2})
    model = index_model(case.walk.arrays())
    palettes, maps = palettes_of(case.latents), case.latents["index"].tolist()
    shape = len(maps[0]), len(maps[0][0])

    def ending_with(entry: int) -> Container:
        maps[-1][-1][-1] = entry
        way = MapWriter(b"", palettes, shape, model)
        way.writer, way.to_have = Writer(), maps
        way.read()
        latents = Chunk(ChunkType.LATENTS, way.writer.finish())
        others = [chunk for chunk in case.file.chunks if chunk.type != ChunkType.LATENTS]
        return replace(case.file, chunks=(latents, *others))

    assert box.write(ending_with(maps[-1][-1][-1])) == box.write(case.file)
    least, most = sorted(map(len, palettes))
    assert least < most - 1
    for entry in (least, most - 1):
        file = ending_with(entry)
        with pytest.raises(DesyncError):
            read_latents(file, case.walk)
        with pytest.raises(ValueError, match="doesn't have"):
            read(file, case.walk.groups, case.walk.channels, model)


@pytest.mark.parametrize("groups", [1, 2, 3, 8])
def test_the_height_of_each_rate_point_is_the_reference_s(groups: int) -> None:
    assert list(heights(groups)) == [reference.height_at(p, groups) for p in range(256)]


def noise(shape: tuple[int, int, int], below: int = 256) -> NDArray[np.int32]:
    return np.random.default_rng(below).integers(0, below, shape, np.int32)


def patches(shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """Return areas of one colour, with some grains in them."""
    channels, rows, columns = shape
    coarse = noise((channels, -(-rows // 5), -(-columns // 6)))
    z = coarse.repeat(5, 1).repeat(6, 2)[:, :rows, :columns]
    grains = np.random.default_rng(1).random((rows, columns)) < 0.15
    return np.where(grains, np.roll(z, (5, 6), (1, 2)), z)


WAYS_DOWN = {
    "noise": (walk_of(2, 1), noise((2, 7, 9))),
    "ties": (walk_of(2, 1), noise((2, 13, 11), below=30)),
    "few colours": (walk_of(3, 2), noise((6, 9, 10), below=3)),
    "patches": (walk_of(2, 3), patches((6, 30, 32))),
    "smooth": (walk_of(3, 2), latent(80, 60, 6) // 8 * 8),
    "one group": (walk_of(1, 3), latent(72, 60, 3)),
    "a row": (walk_of(2, 2), noise((4, 1, 50), below=7)),
    "a column": (walk_of(2, 2), noise((4, 50, 1), below=7)),
    "one position": (walk_of(2, 2), noise((4, 1, 1))),
    "one colour and others": (
        walk_of(2, 1),
        noise((2, 14, 12), below=99) * np.array([[[0]], [[1]]], np.int32),
    ),
}
each_way_down = pytest.mark.parametrize(("walk", "z"), WAYS_DOWN.values(), ids=WAYS_DOWN.keys())


def state_of(latents: Latents, point: int, walk: PaletteWalk) -> reference.State:
    maps = latents["index"].tolist()
    return reference.state_of(palettes_of(latents), maps, walk.weights, point)


def assert_is(latents: Latents, state: reference.State) -> None:
    """Compare palettes and maps, which must be as the format asks."""
    assert palettes_of(latents) == [group.palette for group in state.groups]
    assert latents["index"].tolist() == [group.index for group in state.groups]
    for group in state.groups:
        assert group.palette == sorted(set(group.palette))
        assert min(group.counts) > 0


@each_way_down
def test_an_encoder_is_at_each_point_where_the_reference_is(
    walk: PaletteWalk, z: NDArray[np.int32]
) -> None:
    ladder = walk.start(z)
    state = state_of(walk.latents_at(ladder, 255), 255, walk)
    for point in reversed(range(256)):
        state = state.at(point)
        assert_is(walk.latents_at(ladder, point), state)
        assert state.d < 8


@each_way_down
@pytest.mark.parametrize("point", [170, 120, 73, 41, 9])
def test_a_file_becomes_what_the_reference_makes_of_it(
    walk: PaletteWalk, z: NDArray[np.int32], point: int
) -> None:
    ladder = walk.start(z)
    latents = walk.latents_at(ladder, point)
    shrinker = walk.shrinker(latents, point)
    state = state_of(latents, point, walk)
    for lower in (point, *range(point - 1, 0, -3), 0):
        state = state.at(lower)
        assert_is(shrinker.latents(lower), state)


def lowest_point(latents: Latents, walk: PaletteWalk) -> int:
    """Return the lowest rate point that allows so many entries."""
    for point in reversed(range(256)):
        try:
            state_of(latents, point, walk)
        except ValueError:
            return point + 1
    return 0


@each_way_down
def test_a_file_of_the_lowest_point_it_can_have_becomes_what_the_reference_makes_of_it(
    walk: PaletteWalk, z: NDArray[np.int32]
) -> None:
    """No encoder makes it; more steps may be made than the next merge has."""
    latents = walk.latents_at(walk.start(z), 140)
    point = lowest_point(latents, walk)
    shrinker = walk.shrinker(latents, point)
    state = state_of(latents, point, walk)
    for lower in (point, *range(point - 1, 0, -2), 0):
        state = state.at(lower)
        assert_is(shrinker.latents(lower), state)


def test_files_with_more_entries_than_their_point_allows_are_refused() -> None:
    case = Case(walk_of(2, 2), 70, 50, 60)
    lowest = lowest_point(case.latents, case.walk)
    assert 2 < lowest < case.point
    for point in range(case.point):
        file = replace(case.file, header=replace(case.file.header, point=point))
        if point < lowest:
            with pytest.raises(BitstreamError, match="too many for rate point"):
                read_latents(file, case.walk)
        else:
            read_latents(file, case.walk)


@pytest.mark.parametrize("walk", [walk_of(2, 3), walk_of(3, 2, STRANGE)], ids=["2", "3"])
def test_the_model_id_is_the_reference_s(walk: PaletteWalk) -> None:
    chain = [walk.groups, walk.channels, *walk.weights]
    assert reference.model_id(chain, index_model(walk.arrays()), ENCODER) == walk.model_id
