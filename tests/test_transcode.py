"""Transcoding: a smaller file is what the encoder had written, byte for byte, or it is none."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import cdcodec
from cdcodec import api, families, image, weights
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType
from cdcodec.cli.__main__ import main
from cdcodec.draft import Draft, Drafter
from cdcodec.errors import BitstreamError, CdcError, DesyncError, InputError, OutOfReach
from cdcodec.families.palette.ladder import Ladder
from cdcodec.transcoding import NEAR_ENOUGH, transcode
from cdcodec.weights import WeightFile, WeightSet
from tests.make_vectors import FOLDER
from tests.test_palette_walk import HEIGHT, WALK, WIDTH, file_of, latent

NAME = "palette-made-up"
SOURCE_POINT = 170
PIXELS = WIDTH * HEIGHT
EXTRAS = (
    Chunk(ChunkType.ALPHA, image.encode_alpha(np.full((HEIGHT, WIDTH), 77, np.uint8))),
    Chunk(ChunkType.ICC, box.pack_metadata(b"a profile" * 9)),
    Chunk(0x99, b"of a later version"),
    Chunk(ChunkType.TEXT, b"a note"),
)
"""What stands beside the latents, and stays."""


@functools.cache
def encoded(point: int) -> bytes:
    """Return what an encoder writes of one image at a rate point."""
    return file_of(WALK.latents_at(start(), point), point, extras=EXTRAS)


@functools.cache
def start() -> Ladder:
    return WALK.start(latent(WIDTH, HEIGHT))


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Enter a weight file without networks into a registry of the user's."""
    folder = tmp_path_factory.mktemp("weights")
    path = folder / f"{NAME}.safetensors"
    save_file(WALK.arrays(), path)
    file = WeightFile(path.name, weights.sha256_of(path), path.stat().st_size, str(path))
    entry = WeightSet(NAME, "palette", "tiny", "none", "made up", WALK.model_id.hex(), (file,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CDCODEC_CACHE", str(folder / "cache"))
        weights.register(weights.own_registry_path(), entry)
        families.load_walk.cache_clear()
        yield
    families.load_walk.cache_clear()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file to transcode."""
    monkeypatch.chdir(tmp_path)
    Path("large.cdc").write_bytes(encoded(SOURCE_POINT))
    return tmp_path


def child(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run this tree's python."""
    root = str(Path(cdcodec.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )


# What comes out


@pytest.mark.parametrize("point", [0, 1, 40, 118, SOURCE_POINT - 1, SOURCE_POINT])
def test_a_point_is_reached_byte_for_byte(point: int) -> None:
    made = transcode(encoded(SOURCE_POINT), quality=100 * point / 255)
    assert made.data == encoded(point)
    assert (made.point, made.source_point, made.target_bpp) == (point, SOURCE_POINT, None)
    assert (made.width, made.height, made.model, made.family) == (WIDTH, HEIGHT, NAME, "palette")
    assert made.source_bytes == len(encoded(SOURCE_POINT))
    assert made.notes == ()


def test_few_files_are_written_on_the_way_to_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = Drafter.write

    def counted(self: Drafter, point: int) -> Draft:
        written.append(point)
        return write(self, point)

    monkeypatch.setattr(Drafter, "write", counted)
    budgets = np.linspace(300, len(encoded(SOURCE_POINT)) - 1, 20).astype(int).tolist()
    for size in budgets:
        transcode(encoded(SOURCE_POINT), size=size)
    assert len(written) < 4 * len(budgets)


def test_a_budget_is_kept_and_used_up() -> None:
    smallest, largest = len(encoded(0)), len(encoded(SOURCE_POINT))
    for size in np.linspace(smallest, largest, 5).astype(int).tolist():
        made = transcode(encoded(SOURCE_POINT), size=size)
        assert len(made.data) <= size
        assert made.data == encoded(made.point)
        assert made.target_bpp == 8 * size / PIXELS
        if len(made.data) < NEAR_ENOUGH * size:
            near = range(max(made.point - 5, 0), min(made.point + 6, SOURCE_POINT))
            fitting = [n for n in map(len, map(encoded, near)) if n <= size]
            assert len(made.data) == max(fitting)
    assert transcode(encoded(SOURCE_POINT), bpp=8 * (size + 0.5) / PIXELS).data == made.data


def test_everything_but_palettes_maps_and_point_stays() -> None:
    before, after = (
        box.read(data)
        for data in (encoded(SOURCE_POINT), transcode(encoded(SOURCE_POINT), quality=10).data)
    )
    assert after.header == replace(before.header, point=26)
    assert after.chunks[2:] == before.chunks[2:] == EXTRAS
    assert [chunk.type for chunk in after.chunks] == [chunk.type for chunk in before.chunks]


def test_transcoding_twice_is_transcoding_once() -> None:
    once = transcode(encoded(SOURCE_POINT), quality=10).data
    assert transcode(transcode(encoded(SOURCE_POINT), quality=40).data, quality=10).data == once


def test_the_bits_are_those_that_a_reader_finds() -> None:
    for quality in (20, 100):
        made = transcode(encoded(SOURCE_POINT), quality=quality)
        info = api.info(made.data, verify=True)
        assert dict(info.bits) == pytest.approx(dict(made.bits))
        assert info.point == made.point


@pytest.mark.parametrize(
    ("target", "note"),
    [
        ({"quality": 100}, "the file is of rate point 170 and can't get up to 255"),
        ({"bpp": 9.5}, f"the file has {8 * len(encoded(SOURCE_POINT)) / PIXELS:.4f} bpp and can't"),
        ({"size": len(encoded(SOURCE_POINT))}, ""),
    ],
)
def test_a_file_that_fits_stays_as_it_is(target: dict[str, float], note: str) -> None:
    made = transcode(encoded(SOURCE_POINT), **target)  # type: ignore[arg-type]
    assert made.data == encoded(SOURCE_POINT)
    assert made.point == SOURCE_POINT
    assert [each.startswith(note) for each in made.notes] == [True] * bool(note)


@pytest.mark.parametrize("source_point", [0, SOURCE_POINT])
def test_a_target_below_the_smallest_file_names_that(source_point: int) -> None:
    smallest = min(len(encoded(point)) for point in range(min(source_point, 9) + 1))
    with pytest.raises(OutOfReach, match=f"{smallest - 1} bytes are too few") as caught:
        transcode(encoded(source_point), size=smallest - 1)
    assert f"{smallest} bytes, {8 * smallest / PIXELS:.4f} bpp" in str(caught.value.hint)
    assert len(transcode(encoded(source_point), size=smallest).data) == smallest


# What is refused


def test_a_family_that_is_not_scalable_says_so() -> None:
    with pytest.raises(InputError, match="files of cdc-tiny can't be made smaller") as caught:
        transcode(FOLDER / "crop-64x48.cdc", bpp=0.1)
    assert "palette" in str(caught.value.hint)


def test_targets_that_make_no_sense_are_refused() -> None:
    data = encoded(SOURCE_POINT)
    with pytest.raises(InputError, match="one of bpp, size and quality"):
        transcode(data)
    with pytest.raises(InputError, match="exclude"):
        transcode(data, bpp=0.1, quality=3)
    for nonsense in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match="target"):
            transcode(data, bpp=nonsense)
        with pytest.raises(InputError, match="quality"):
            transcode(data, quality=nonsense)


def test_a_damaged_file_is_refused_even_if_it_would_fit() -> None:
    data = encoded(30)
    for length in range(0, len(data), max(1, len(data) // 40)):
        with pytest.raises(BitstreamError):
            transcode(data[:length], size=10**6)
    for position in range(0, len(data), max(1, len(data) // 40)):
        with pytest.raises(CdcError):
            transcode(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :], bpp=9)


def test_damage_behind_a_right_checksum_is_refused_or_gives_a_file_that_decodes() -> None:
    body = encoded(6)[:-4]
    draw = random.Random(0)
    seen = set()
    for bit in [*range(32, 16 * 8, 3), *(draw.randrange(8 * len(body)) for _ in range(25))]:
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        sealed = bytes(changed) + zlib.crc32(changed).to_bytes(4, "little")
        try:
            made = transcode(sealed, quality=1, max_pixels=2**16)
        except CdcError as error:
            seen.add(error.exit_code)
        else:
            api.info(made.data, verify=True)
            seen.add(0)
    assert {0, 4, 5, 6, 7} <= seen <= {0, 3, 4, 5, 6, 7}


def test_a_chunk_that_holds_no_palettes_is_refused() -> None:
    file = box.read(encoded(30))
    latents, clut, *others = file.chunks
    for payload in (b"", clut.payload[:-1], clut.payload + b"\0", bytes(30)):
        chunks = latents, replace(clut, payload=payload), *others
        with pytest.raises((BitstreamError, DesyncError)):
            transcode(box.write(replace(file, chunks=chunks)), quality=0)
    with pytest.raises(BitstreamError, match="no clut chunk"):
        transcode(box.write(replace(file, chunks=(latents, *others))), quality=0)


def test_images_above_the_limit_are_refused() -> None:
    with pytest.raises(CdcError, match="limit") as caught:
        transcode(encoded(30), quality=0, max_pixels=1000)
    assert caught.value.exit_code == 5


# The command


def test_the_command_writes_what_the_encoder_would() -> None:
    size = len(encoded(60)) + 1
    assert main(["transcode", "large.cdc", "-o", "a.cdc", "--size", str(size)]) == 0
    made = Path("a.cdc").read_bytes()
    assert made == encoded(box.read(made).header.point)
    assert 0.96 * size < len(made) <= size
    assert main(["transcode", "large.cdc", "-o", "b.cdc", "-q", str(100 * 60 / 255)]) == 0
    assert Path("b.cdc").read_bytes() == encoded(60)
    assert main(["transcode", "b.cdc", "-o", "c.cdc", "--bpp", "0.1"]) == 0
    assert Path("c.cdc").stat().st_size <= 0.1 * PIXELS / 8


def test_a_directory_takes_a_file_of_the_same_name(folder: Path) -> None:
    (folder / "there").mkdir()
    assert main(["transcode", "large.cdc", "-o", "there", "-q", "3"]) == 0
    assert (folder / "there" / "large.cdc").read_bytes() == encoded(8)


def test_what_was_done_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcode", "large.cdc", "-o", "a.cdc", "--bpp", "9", "-v"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    note, line, *details = err.splitlines()
    assert note.startswith("cdcodec: note: the file has ")
    assert line.startswith(f"a.cdc: {WIDTH}x{HEIGHT}, ")
    assert line.endswith(f" of 9 bpp, {NAME} at point {SOURCE_POINT}")
    assert [each.split()[0] for each in details[:2]] == ["index", "read"]
    assert main(["transcode", "large.cdc", "-o", "b.cdc", "--bpp", "9", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_json_has_what_encode_has_and_where_it_came_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["transcode", "large.cdc", "-o", "a.cdc", "-q", "10", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert report.pop("seconds").keys() == {"read", "load", "entropy", "code", "write"}
    assert report.pop("bits").keys() == {"index"}
    taken = len(encoded(26))
    assert report == {
        "input": "large.cdc",
        "output": "a.cdc",
        "width": WIDTH,
        "height": HEIGHT,
        "bytes": taken,
        "bpp": 8 * taken / PIXELS,
        "target_bpp": None,
        "model": NAME,
        "family": "palette",
        "point": 26,
        "notes": [],
        "source_bytes": len(encoded(SOURCE_POINT)),
        "source_point": SOURCE_POINT,
    }


def test_pipes_carry_the_file_and_json_makes_way() -> None:
    done = child("-m", "cdcodec", "transcode", "-", "-q", "10", "--json", stdin=encoded(200))
    assert done.stdout == encoded(26)
    assert json.loads(done.stderr)["output"] == "-"


def test_nothing_is_imported_that_is_slow_to_import_and_not_needed() -> None:
    script = """
import sys
from cdcodec.cli.__main__ import main
code = main(["transcode", "large.cdc", "-o", "small.cdc", "--bpp", "0.15", "--quiet"])
heavy = {"torch", "rich", "scipy", "skimage", "http.client", "ssl"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""
    done = child("-c", script)
    assert (done.returncode, done.stderr) == (0, b"")
    assert Path("small.cdc").stat().st_size <= 0.15 * PIXELS / 8


@pytest.mark.parametrize("out", [["-o", "large.cdc"], ["-o", "./large.cdc", "--overwrite"]])
def test_a_file_never_takes_its_own_place(
    out: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcode", "large.cdc", "-q", "3", *out]) == 3
    assert "large.cdc is both input and output\nhint: name another" in capsys.readouterr().err
    assert Path("large.cdc").read_bytes() == encoded(SOURCE_POINT)


def test_without_a_name_the_smaller_file_lies_beside_its_source() -> None:
    for name in ("large.transcoded.cdc", "large.transcoded-2.cdc"):
        assert main(["transcode", "large.cdc", "-q", "3"]) == 0
        assert Path(name).read_bytes() == encoded(8)
    assert Path("large.cdc").read_bytes() == encoded(SOURCE_POINT)


def test_existing_files_are_kept_unless_overwrite() -> None:
    Path("a.cdc").write_bytes(b"precious")
    assert main(["transcode", "large.cdc", "-o", "a.cdc", "-q", "3"]) == 3
    assert Path("a.cdc").read_bytes() == b"precious"
    assert main(["transcode", "large.cdc", "-o", "a.cdc", "-q", "3", "--overwrite"]) == 0
    assert Path("a.cdc").read_bytes() == encoded(8)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["large.cdc"], 2, "one of --bpp, --size and --quality must say how far"),
        (["large.cdc", "--bpp", "1", "-q", "3"], 2, "exclude one another"),
        (["large.cdc", "--bpp", "0"], 2, "--bpp"),
        (["no.cdc", "-q", "3"], 3, "cannot read no.cdc: no such file"),
        (["large.cdc", "--size", "5"], 3, "5 bytes are too few"),
        ([str(FOLDER / "crop-64x48.cdc"), "-q", "3"], 3, "files of cdc-tiny can't be made smaller"),
        (["photo.png", "-q", "3"], 4, "photo.png is a picture (PNG), not a compressed file"),
        (["cut.cdc", "-q", "3"], 4, "checksum"),
        (["large.cdc", "-q", "3", "--max-pixels", "9"], 5, "above the limit"),
        (["stranger.cdc", "-q", "3"], 6, "00000000"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    args: list[str], code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "png")
    Path("photo.png").write_bytes(buffer.getvalue())
    Path("cut.cdc").write_bytes(encoded(SOURCE_POINT)[:-1])
    file = box.read(encoded(3))
    stranger = replace(file, header=replace(file.header, model_id=bytes(4)))
    Path("stranger.cdc").write_bytes(box.write(stranger))
    before = sorted(folder.iterdir())
    assert main(["transcode", *args, "-o", "out.cdc"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("cdcodec: error: ")
    assert message in lines[0]
    assert [line[:6] for line in lines[1:]] in ([], ["hint: "])
    assert sorted(folder.iterdir()) == before
