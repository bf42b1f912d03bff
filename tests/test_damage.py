"""Damaged files end in a CdcError with exit code 4 to 7: soon, and without much memory."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cdcodec import api, families
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType, Container
from cdcodec.codec import Decoding
from cdcodec.errors import CdcError, DesyncError
from tests.make_vectors import FOLDER

NAMES = ("crop-64x48", "alpha-icc-20x12", "grey-17x13")
CODES = {4, 5, 6, 7}
MOST_PIXELS = 2**16
"""What the damaged files may claim here, so that those that still decode do so quickly."""

SAMPLES = 150
SECONDS = 5.0
"""Of computing for one file, where nearly all need a hundredth of it."""


@pytest.fixture(scope="module", autouse=True)
def networks() -> None:
    """Load what takes long, so that no single file is charged with it."""
    families.load_codec("cdc-tiny", "cpu")


@pytest.fixture(scope="module", params=NAMES)
def file(request: pytest.FixtureRequest) -> bytes:
    return (FOLDER / f"{request.param}.cdc").read_bytes()


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def claiming(width: int, height: int, stream: bytes) -> bytes:
    """Return a file with a right checksum that says it holds an image of this size."""
    header = box.read((FOLDER / "grey-17x13.cdc").read_bytes()).header
    header = replace(header, width=width, height=height, point=15)
    return box.write(Container(header, (Chunk(ChunkType.LATENTS, stream),)))


def exit_code(data: bytes) -> int:
    """Decode a file in every way, and return the exit code of its error, 0 if it decodes.

    Any other exception than a CdcError ends the test.
    """
    begun = time.process_time()
    code = 0
    try:
        picture = api.decode(data, Decoding(steps=1, device="cpu"), max_pixels=MOST_PIXELS).picture
    except CdcError as error:
        code = error.exit_code
    else:
        assert picture.width * picture.height <= MOST_PIXELS
        assert picture.pixels.shape == (picture.height, picture.width, 3)
    assert time.process_time() - begun < SECONDS
    return code


def read_codes(data: bytes) -> Iterator[int]:
    """Yield the exit codes of info, info --verify and decode; a file cut or flipped has no 0."""
    for attempt in (
        lambda: api.info(data),
        lambda: api.info(data, verify=True),
        lambda: api.decode(data, Decoding(device="cpu")),
    ):
        with pytest.raises(CdcError) as caught:
            attempt()
        assert str(caught.value)
        assert "\n" not in str(caught.value)
        yield caught.value.exit_code


def test_every_prefix_is_refused(file: bytes) -> None:
    for length in range(len(file)):
        assert set(read_codes(file[:length])) <= CODES


def test_every_single_flipped_bit_is_refused(file: bytes) -> None:
    for bit in range(8 * len(file)):
        assert set(read_codes(flipped(file, bit))) <= CODES


def test_every_single_changed_byte_of_the_header_is_refused(file: bytes) -> None:
    for position in range(16):
        for value in set(range(256)) - {file[position]}:
            changed = file[:position] + bytes([value]) + file[position + 1 :]
            assert set(read_codes(changed)) <= CODES


def test_whatever_follows_a_file_is_refused(file: bytes) -> None:
    for tail in (b"\0", b"\n", file, file[-4:], bytes(1000)):
        assert set(read_codes(file + tail)) == {4}


def test_a_flipped_bit_behind_a_right_checksum_is_refused_or_gives_an_image(file: bytes) -> None:
    body = file[:-4]
    header = range(8 * 16)
    others = random.Random(1).sample(
        range(8 * 16, 8 * len(body)), min(SAMPLES, 8 * len(body) - 128)
    )
    codes = Counter(exit_code(sealed(flipped(body, bit))) for bit in (*header, *others))
    assert set(codes) <= CODES | {0}
    assert {4, 5, 6, 7} <= set(codes)


def test_a_cut_behind_a_right_checksum_is_refused(file: bytes) -> None:
    body = file[:-4]
    for length in range(4, len(body), max(1, len(body) // 60)):
        # A file may well end after a chunk, if those that follow are not needed.
        assert exit_code(sealed(body[:length])) in CODES | {0}


def test_a_flipped_bit_of_the_stream_gives_other_symbols_or_a_desync(file: bytes) -> None:
    """Without the checksum, damage near the start of the stream, its end for a reader, can pass."""
    container = box.read(file)
    payload = container.chunk(ChunkType.LATENTS)
    assert payload
    sound = api.info(file, verify=True).symbols_sha256
    bits = random.Random(2).sample(range(8 * len(payload)), min(SAMPLES, 8 * len(payload)))
    noticed = 0
    for bit in bits:
        chunk = Chunk(ChunkType.LATENTS, flipped(payload, bit))
        try:
            info = api.info(box.write(Container(container.header, (chunk,))), verify=True)
            assert info.symbols_sha256 != sound
        except DesyncError:
            noticed += 1
    assert noticed > len(bits) / 2 or len(payload) < 20


def test_noise_in_place_of_the_stream_is_nearly_always_a_desync() -> None:
    container = box.read((FOLDER / "crop-64x48.cdc").read_bytes())
    noise = random.Random(3)
    noticed = 0
    for length in range(1, 401, 4):
        chunk = Chunk(ChunkType.LATENTS, noise.randbytes(length - 1) + b"\x55")
        try:
            api.info(box.write(Container(container.header, (chunk,))), verify=True)
        except DesyncError:
            noticed += 1
    assert noticed >= 97


def test_noise_behind_the_magic_is_refused() -> None:
    noise = random.Random(4)
    for length in range(200):
        assert exit_code(sealed(box.MAGIC + b"\x01" + noise.randbytes(length))) in CODES


@pytest.mark.parametrize("stream", [b"", b"\x01", b"\xff" * 11])
def test_a_short_file_that_claims_a_large_image_takes_memory_for_its_latents_only(
    stream: bytes,
) -> None:
    side = 4096
    tracemalloc.start()
    try:
        # The empty stream is that of an image whose every symbol is the first of its table.
        with pytest.raises(DesyncError) if stream else nullcontext():
            api.info(claiming(side, side, stream), verify=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * side * side


def test_images_above_the_limit_are_refused_before_memory_is_taken() -> None:
    data = claiming(65_535, 2_730, b"\x01")
    tracemalloc.start()
    try:
        for attempt in (api.info, api.decode):
            with pytest.raises(CdcError, match="limit") as caught:
                attempt(data, max_pixels=10**8)
            assert caught.value.exit_code == 5
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_side_information_that_inflates_without_end_is_refused_in_little_memory() -> None:
    container = box.read((FOLDER / "crop-64x48.cdc").read_bytes())
    bomb = zlib.compress(bytes(64 * 2**20), 9)
    for kind, payload in (
        (ChunkType.ALPHA, b"\x01" + bomb),
        (ChunkType.ICC, bomb),
        (ChunkType.EXIF, bomb),
        (ChunkType.XMP, bomb),
    ):
        parts = bytes([kind]) + box.varint_bytes(len(payload)) + payload
        data = sealed(box.write(container)[:-4] + parts)
        tracemalloc.start()
        try:
            assert exit_code(data) == 4
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * 2**20


def test_a_sound_file_passes_through_the_same_net(file: bytes) -> None:
    assert exit_code(file) == 0
    assert exit_code(sealed(file[:-4])) == 0
    image = api.decode(file, Decoding(steps=1, device="cpu")).image
    assert isinstance(image, Image.Image)
    assert np.array(image).std() > 0
