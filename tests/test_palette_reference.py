"""The palette family's integers as formats/families.md tells them, by a reader of its own."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

import cdcodec
from cdcodec.api import read_latents
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import ChunkType, Container
from cdcodec.codec import Latents
from cdcodec.entropy import Writer
from cdcodec.families.palette import indices
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
    return PaletteWalk(groups, channels, (16, 9, 5)[:groups], index_model, ENCODER)


def vector(*numbers: int) -> NDArray[np.int32]:
    return np.array(numbers, np.int32)


STRANGE = indices.IndexModel(
    log=indices.DEFAULT.log,
    exp=indices.DEFAULT.exp,
    kernel=vector(2**21, 70_000, 900, 40, 3),
    activity=vector(5, 5, 40),
    priors=vector(7, 300, 2),
    exponents=vector(-(2**16), 2**18, 2**17, 0, 2**14, -(2**18), 2**16, 2**15),
    rates=vector(2**15, 3, 0),
)
"""Numbers that reach every limit: a short kernel, hardly any priors, steps too large."""


@dataclass(frozen=True)
class Case:
    """An image of width x height pixels at a rate point, some groups of one colour only."""

    walk: PaletteWalk
    width: int
    height: int
    point: int
    flat: tuple[int, ...] = ()

    @functools.cached_property
    def latents(self) -> Latents:
        """What an encoder finds."""
        z = latent(self.width, self.height, self.walk.groups * self.walk.channels)
        for group in self.flat:
            z[group * self.walk.channels : (group + 1) * self.walk.channels] = 77
        return self.walk.link(*self.walk.start(z), self.point)

    @functools.cached_property
    def file(self) -> Container:
        """What it writes."""
        return box.read(file_of(self.latents, self.point, self.width, self.height, self.walk))


CASES = {
    "one position": Case(walk_of(2, 2), 3, 8, 40),
    "one entry a group": Case(walk_of(2, 2), 70, 50, 0),
    "a row": Case(walk_of(2, 3), 300, 5, 30),
    "a column": Case(walk_of(2, 1), 8, 600, 30),
    "three groups": Case(walk_of(3, 3), 121, 75, 60),
    "first group of one entry": Case(walk_of(3, 2), 90, 90, 30, flat=(0,)),
    "middle group of one entry": Case(walk_of(3, 2), 90, 90, 30, flat=(1,)),
    "last group of one entry": Case(walk_of(3, 2), 90, 90, 30, flat=(2,)),
    "256 entries": Case(walk_of(1, 2), 144, 128, 255),
    "strange numbers": Case(walk_of(3, 2, STRANGE), 130, 110, 40),
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


@pytest.mark.parametrize("groups", [1, 2, 3, 255])
def test_the_entries_of_each_rate_point_are_the_reference_s(groups: int) -> None:
    walk = PaletteWalk(groups, 1, [1] * groups, indices.DEFAULT, ENCODER)
    for point in range(256):
        assert reference.entries_at(point, groups) == walk.entries(point)


@pytest.mark.parametrize("walk", [walk_of(2, 1), walk_of(1, 3), walk_of(3, 2)], ids=["1", "3", "2"])
def test_every_link_of_the_chain_is_the_reference_s(walk: PaletteWalk) -> None:
    latents = Case(walk, 70, 60, 255).latents
    palettes, maps = palettes_of(latents), latents["index"]
    counts = [np.bincount(index.ravel()).tolist() for index in maps]
    chain = walk.chain(latents)
    total = sum(map(len, palettes))
    for link in reference.links(palettes, counts, walk.weights):
        assert sum(map(len, link)) == total
        found, became = chain.at(total)
        for g, group in enumerate(link):
            colours = [entry.colour for entry in group]
            assert len(set(colours)) == len(colours)
            assert colours == plain(found[g].colours.astype(np.int32))
            assert [entry.positions for entry in group] == found[g].counts.tolist()
            follow = became[g][maps[g]].tolist()
            assert reference.followed(maps[g].tolist(), group) == follow
        total -= 1
    assert total == walk.groups - 1


@pytest.mark.parametrize("walk", [walk_of(2, 3), walk_of(3, 2, STRANGE)], ids=["2", "3"])
def test_the_model_id_is_the_reference_s(walk: PaletteWalk) -> None:
    chain = [walk.groups, walk.channels, *walk.weights]
    assert reference.model_id(chain, index_model(walk.arrays()), ENCODER) == walk.model_id
