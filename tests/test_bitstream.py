"""The container keeps what it is given, and refuses everything else with the right error."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcodec.bitstream import (
    FORMAT_VERSION,
    MAGIC,
    MAX_CHUNKS,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_STEPS,
    MAX_TEXT_BYTES,
    METADATA_LIMITS,
    ByteReader,
    Chunk,
    ChunkType,
    Container,
    Header,
    pack_metadata,
    read,
    unpack_metadata,
    varint_bytes,
    write,
)
from cdcodec.errors import (
    BitstreamError,
    CdcError,
    DesyncError,
    InputError,
    UnsupportedError,
    WeightsError,
)

KODAK = Header(family=1, model_id=b"\x12\x34\x56\x78", width=768, height=512, point=90, steps=5)
LATENTS = Chunk(ChunkType.LATENTS, bytes(range(200)))
PLAIN = Container(KODAK, (LATENTS,))
SMALLEST = Container(Header(3, bytes(4), 1, 1, 0, 0), (Chunk(ChunkType.LATENTS, b""),))
EVERY_KIND = Container(
    Header(family=5, model_id=b"\xff\x00\xff\x00", width=65_535, height=97, point=255, steps=250),
    (
        Chunk(ChunkType.TEXT, "a note, größer".encode()),
        Chunk(ChunkType.CLUT, bytes(12)),
        Chunk(ChunkType.LATENTS, b"\x00\x01\x02"),
        Chunk(ChunkType.SYNTAX, b"\x80" * 16),
        Chunk(ChunkType.ALPHA, b"\x01\x02"),
        Chunk(ChunkType.COLOUR, b"\x01"),
        Chunk(ChunkType.ICC, pack_metadata(b"profile" * 9)),
        Chunk(ChunkType.EXIF, pack_metadata(b"MM\x00*")),
        Chunk(ChunkType.XMP, pack_metadata(b"<x/>")),
        Chunk(ChunkType.TEXT, b""),
        Chunk(0xFE, b"from the future"),
    ),
)
SAMPLES = pytest.mark.parametrize(
    "container", [SMALLEST, PLAIN, EVERY_KIND], ids=["smallest", "plain", "every kind"]
)

headers = st.builds(
    Header,
    family=st.integers(1, 255),
    model_id=st.binary(min_size=4, max_size=4),
    width=st.integers(1, 2730) | st.integers(1, 300),
    height=st.integers(1, MAX_SIDE) | st.integers(1, 300),
    point=st.integers(0, 255),
    steps=st.integers(0, MAX_STEPS),
)
payloads = st.binary(max_size=300)
optional_chunks = st.lists(
    st.builds(Chunk, st.sampled_from([ChunkType.CLUT, ChunkType.SYNTAX, ChunkType.ALPHA]), payloads)
    | st.builds(Chunk, st.just(ChunkType.COLOUR), st.just(b"\x01"))
    | st.builds(
        Chunk,
        st.sampled_from([ChunkType.ICC, ChunkType.EXIF, ChunkType.XMP]),
        payloads.map(pack_metadata),
    ),
    max_size=7,
    unique_by=lambda chunk: chunk.type,
)
repeatable_chunks = st.lists(
    st.builds(Chunk, st.integers(0x85, 0xFF), payloads)
    | st.builds(Chunk, st.just(ChunkType.TEXT), st.text(max_size=40).map(str.encode)),
    max_size=4,
)


@st.composite
def containers(draw: st.DrawFn) -> Container:
    """Containers that the format can express, all kinds of chunks in any order."""
    latents = Chunk(ChunkType.LATENTS, draw(payloads))
    chunks = [latents, *draw(optional_chunks), *draw(repeatable_chunks)]
    return Container(draw(headers), tuple(draw(st.permutations(chunks))))


def with_crc(body: bytes) -> bytes:
    """Sign a body, so that a test reaches the checks behind the checksum."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def signed_file(
    header: Header = KODAK,
    chunks: bytes = b"\x01\x00",
    fields: dict[str, bytes] | None = None,
) -> bytes:
    """Put a file together by hand, after container.md, without any of the writer's checks."""
    header_fields = {
        "version": b"\x01",
        "family": bytes([header.family]),
        "model_id": header.model_id,
        "width": varint_bytes(header.width),
        "height": varint_bytes(header.height),
        "point": bytes([header.point]),
        "steps": bytes([header.steps]),
    }
    header_fields |= fields or {}
    return with_crc(b"\xcdDC" + b"".join(header_fields.values()) + chunks)


@given(container=containers())
def test_what_is_written_is_read_back(container: Container) -> None:
    data = write(container)
    assert read(data) == container
    assert write(read(data)) == data


def test_the_bytes_of_a_file_are_those_of_the_specification() -> None:
    header = "cd4443 01 01 12345678 8006 8004 5a 05"
    assert write(PLAIN) == with_crc(bytes.fromhex(header + "01 c801") + LATENTS.payload)
    assert write(PLAIN) == signed_file(chunks=b"\x01\xc8\x01" + LATENTS.payload)


@given(header=headers, payload=st.binary(max_size=20_000))
def test_a_plain_file_carries_at_most_24_bytes_around_its_payload(
    header: Header, payload: bytes
) -> None:
    data = write(Container(header, (Chunk(ChunkType.LATENTS, payload),)))
    assert len(data) - len(payload) <= 24


def test_a_kodak_file_carries_22_bytes_around_its_payload() -> None:
    assert len(write(PLAIN)) - len(LATENTS.payload) == 22


@SAMPLES
def test_every_prefix_is_a_cdc_error(container: Container) -> None:
    data = write(container)
    for length in range(len(data)):
        with pytest.raises(CdcError) as caught:
            read(data[:length])
        assert caught.value.exit_code == 4, length


@SAMPLES
def test_every_flipped_bit_is_a_cdc_error(container: Container) -> None:
    data = write(container)
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(CdcError) as caught:
            read(bytes(damaged))
        assert caught.value.exit_code in {4, 5, 6, 7}, position


def exit_code(data: bytes) -> int:
    """Read data as the command line would; 0 when it is a whole file."""
    try:
        read(data)
    except CdcError as error:
        return error.exit_code
    return 0


@SAMPLES
def test_every_signed_prefix_is_whole_or_a_bitstream_error(container: Container) -> None:
    body = write(container)[:-4]
    codes = [exit_code(with_crc(body[:length])) for length in range(len(MAGIC) + 1, len(body))]
    assert set(codes) <= {0, 4}
    assert codes.count(0) < len(container.chunks)


@SAMPLES
def test_every_signed_flip_is_a_file_or_a_cdc_error(container: Container) -> None:
    body = write(container)[:-4]
    for position in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[position // 8] ^= 1 << position % 8
        assert exit_code(with_crc(bytes(damaged))) in {0, 4, 5}


@settings(max_examples=300)
@given(body=st.binary(max_size=120), current=st.booleans())
def test_signed_nonsense_is_a_file_or_a_cdc_error(body: bytes, current: bool) -> None:
    start = MAGIC + bytes([FORMAT_VERSION]) if current else b""
    assert exit_code(with_crc(start + body)) in {0, 4, 5}


@pytest.mark.parametrize(
    "data", [b"", b"\xcd", b"\xcdD", b"\x89PNG\r\n\x1a\n", b"CDC\x01", bytes(64)]
)
def test_foreign_data_is_not_a_cdcodec_file(data: bytes) -> None:
    with pytest.raises(BitstreamError, match="not a cdcodec file"):
        read(data)


def test_a_newer_version_asks_for_a_newer_cdcodec_whatever_follows() -> None:
    with pytest.raises(UnsupportedError, match="version 2 needs a newer cdcodec") as caught:
        read(MAGIC + b"\x02")
    assert caught.value.exit_code == 5
    assert caught.value.hint


def test_version_0_does_not_exist() -> None:
    with pytest.raises(BitstreamError, match="version 0 does not exist"):
        read(signed_file(fields={"version": b"\x00"}))


def test_trailing_bytes_are_a_bitstream_error() -> None:
    data = write(PLAIN)
    for tail in (b"\x00", b"\n", b"\x84\x00", data, zlib.crc32(data).to_bytes(4, "little")):
        with pytest.raises(BitstreamError):
            read(data + tail)


@pytest.mark.parametrize(
    ("field", "encoded", "message"),
    [
        ("family", b"\x00", "family is 0"),
        ("width", b"\x00", "width is 0"),
        ("height", b"\x00", "height is 0"),
        ("width", b"\x80\x80\x04", "width is 65536"),
        ("height", b"\xff\xff\xff\xff\x7f", "height is 34359738367"),
        ("steps", b"\xfb", "step count is 251"),
        ("width", b"\x81\x00", "width is not in its shortest form"),
        ("height", b"\x81\x80\x80\x00", "height is not in its shortest form"),
        ("height", b"\x80\x80\x80\x80\x80\x01", "height is longer than 5 bytes"),
    ],
)
def test_a_field_out_of_range_is_named(field: str, encoded: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        read(signed_file(fields={field: encoded}))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (b"", "no latents"),
        (b"\x84\x00", "no latents"),
        (b"\x01", "ends 1 bytes short of a 1-byte chunk length"),
        (b"\x01\x05abc", "ends 2 bytes short of a 5-byte payload of chunk 0x01"),
        (b"\x01\xff\xff\xff\x1f", "ends 67108863 bytes short"),
        (b"\x01\xff\xff\xff\xff\x0f", "chunk length is 4294967295, above the limit"),
        (b"\x01\x80\x00", "chunk length is not in its shortest form"),
        (b"\x01\x00\x01\x00", "more than one latents"),
        (b"\x01\x00\x05\x01\x01\x05\x01\x01", "more than one colour"),
        (b"\x01\x00\x81\x01a\x81\x01b", "more than one icc"),
        (b"\x01\x00\x05\x00", "colour chunk has 0 bytes"),
        (b"\x01\x00\x84\x01\xff", "not UTF-8"),
        (b"\x01\x00" + b"\xf0\x00" * MAX_CHUNKS, "more than 64 chunks"),
    ],
)
def test_a_broken_chunk_is_a_bitstream_error(chunks: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        read(signed_file(chunks=chunks))


@pytest.mark.parametrize("type", [0x00, 0x06, 0x7F])
def test_an_unknown_critical_chunk_is_unsupported(type: int) -> None:
    with pytest.raises(UnsupportedError, match=f"chunk 0x{type:02x} is unknown.*newer cdcodec"):
        read(signed_file(chunks=b"\x01\x00" + bytes([type, 0])))


def test_an_unknown_colour_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="colour 2"):
        read(signed_file(chunks=b"\x01\x00\x05\x01\x02"))


@pytest.mark.parametrize("type", [0x80, 0x85, 0xFF])
def test_unknown_ancillary_chunks_are_kept_even_repeated(type: int) -> None:
    container = read(signed_file(chunks=b"\x01\x00" + bytes([type, 1, 65, type, 1, 66])))
    assert container.chunks[1:] == (Chunk(type, b"A"), Chunk(type, b"B"))
    assert container.chunk(type) == b"A"
    assert container.chunks[1].ancillary
    assert container.chunks[1].name == f"0x{type:02x}"


def test_chunks_are_found_by_type_and_named() -> None:
    container = read(write(EVERY_KIND))
    assert container.chunk(ChunkType.SYNTAX) == b"\x80" * 16
    assert PLAIN.chunk(ChunkType.SYNTAX) is None
    assert [chunk.name for chunk in container.chunks[:3]] == ["text", "clut", "latents"]
    assert [chunk.ancillary for chunk in container.chunks[:3]] == [True, False, False]


def test_an_image_above_the_pixel_limit_is_refused_before_its_chunks_are_read() -> None:
    side = MAX_SIDE
    data = signed_file(replace(KODAK, width=side, height=side), chunks=b"\x01\x7f")
    with pytest.raises(UnsupportedError, match=f"65535 x 65535 pixels .* {MAX_PIXELS}") as caught:
        read(data)
    assert "--max-pixels" in str(caught.value.hint)
    large = write(replace(PLAIN, header=replace(KODAK, width=side, height=side)))
    assert read(large, max_pixels=side * side).header.width == side


def test_a_file_above_the_size_limit_is_refused_both_ways() -> None:
    with pytest.raises(BitstreamError, match="above the limit"):
        read(MAGIC + b"\x01" + bytes(MAX_FILE_BYTES))
    with pytest.raises(InputError, match="larger than"):
        write(Container(KODAK, (Chunk(ChunkType.LATENTS, bytes(MAX_FILE_BYTES)),)))


@pytest.mark.parametrize("type", [*METADATA_LIMITS, ChunkType.TEXT])
def test_an_ancillary_payload_above_its_limit_is_a_bitstream_error(type: int) -> None:
    limit = METADATA_LIMITS.get(type, MAX_TEXT_BYTES)
    for excess in (0, 1):
        length = limit + excess
        data = signed_file(
            chunks=b"\x01\x00" + bytes([type]) + varint_bytes(length) + bytes(length)
        )
        if excess:
            with pytest.raises(BitstreamError, match=f"above the limit of {limit}"):
                read(data)
        else:
            assert len(read(data).chunk(type) or b"") == limit


@given(raw=st.binary(max_size=3000))
def test_packed_metadata_unpacks_up_to_its_limit(raw: bytes) -> None:
    assert unpack_metadata(pack_metadata(raw), len(raw)) == raw
    if raw:
        with pytest.raises(BitstreamError, match="unpacks to more than"):
            unpack_metadata(pack_metadata(raw), len(raw) - 1)


def test_a_metadata_bomb_is_not_inflated() -> None:
    deflater = zlib.compressobj(9)
    zeros = bytes(2**20)
    bomb = b"".join(deflater.compress(zeros) for _ in range(50)) + deflater.flush()
    tracemalloc.start()
    with pytest.raises(BitstreamError, match="unpacks to more than"):
        unpack_metadata(bomb, METADATA_LIMITS[ChunkType.EXIF])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_damaged_metadata_is_a_bitstream_error() -> None:
    packed = pack_metadata(b"profile" * 99)
    for length in range(len(packed)):
        with pytest.raises(BitstreamError, match="cut short"):
            unpack_metadata(packed[:length], 1000)
    with pytest.raises(BitstreamError, match="1 bytes follow"):
        unpack_metadata(packed + b"x", 1000)
    for position in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[position // 8] ^= 1 << position % 8
        # A few bits of a zlib stream are padding; the rest is guarded by its Adler-32.
        with contextlib.suppress(BitstreamError):
            assert unpack_metadata(bytes(damaged), 1000) == b"profile" * 99


def test_the_writer_refuses_what_a_users_image_can_break_as_an_input_error() -> None:
    with pytest.raises(InputError, match="65536 x 9 pixels is too large"):
        write(Container(Header(1, bytes(4), 65_536, 9, 0, 0), (LATENTS,)))
    profile = Chunk(ChunkType.ICC, pack_metadata(bytes(4 * 2**20 + 1)))
    with pytest.raises(InputError, match="icc metadata can't be kept") as caught:
        write(Container(KODAK, (LATENTS, profile)))
    assert caught.value.hint == "--metadata none drops it"


@pytest.mark.parametrize(
    "container",
    [
        Container(KODAK, ()),
        Container(KODAK, (LATENTS, LATENTS)),
        Container(KODAK, (LATENTS, Chunk(0x07, b""))),
        Container(KODAK, (LATENTS, Chunk(0x100, b""))),
        Container(KODAK, (LATENTS, Chunk(ChunkType.COLOUR, b"\x00"))),
        Container(KODAK, (LATENTS, *(Chunk(0xF0, b"") for _ in range(MAX_CHUNKS)))),
        Container(replace(KODAK, width=0), (LATENTS,)),
        Container(replace(KODAK, family=256), (LATENTS,)),
        Container(replace(KODAK, point=-1), (LATENTS,)),
        Container(replace(KODAK, steps=251), (LATENTS,)),
        Container(replace(KODAK, model_id=b"abc"), (LATENTS,)),
    ],
)
def test_the_writer_calls_what_the_format_cannot_express_our_bug(container: Container) -> None:
    with pytest.raises(ValueError, match="the format has no such file"):
        write(container)


@given(value=st.integers(0, 2**35 - 1))
def test_varints_round_trip_in_at_most_five_bytes(value: int) -> None:
    encoded = varint_bytes(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7)) <= 5
    reader = ByteReader(encoded)
    assert reader.varint(value, "number") == value
    reader.expect_end()


@given(data=st.binary(max_size=7))
def test_a_varint_that_is_read_is_the_one_that_would_be_written(data: bytes) -> None:
    reader = ByteReader(data)
    try:
        value = reader.varint(2**35 - 1, "number")
    except BitstreamError:
        return
    assert data.startswith(varint_bytes(value))
    assert reader.remaining == len(data) - len(varint_bytes(value))


@pytest.mark.parametrize("value", [-1, 2**35])
def test_a_number_that_no_varint_holds_is_our_bug(value: int) -> None:
    with pytest.raises(ValueError, match="a varint holds"):
        varint_bytes(value)


def test_a_reader_says_how_much_is_missing_and_stays_where_it_was() -> None:
    reader = ByteReader(b"abc")
    assert reader.read_exactly(1) == b"a"
    with pytest.raises(BitstreamError, match="ends 3 bytes short of a 5-byte model id"):
        reader.read_exactly(5, "model id")
    with pytest.raises(BitstreamError, match="file goes on for 2 bytes after its end"):
        reader.expect_end("file")
    assert reader.read_exactly(2) == b"bc"
    with pytest.raises(BitstreamError, match="1 bytes short of a 1-byte field"):
        reader.u8()
    with pytest.raises(ValueError, match="negative"):
        reader.read_exactly(-1)


def test_exit_codes_and_hints_survive_a_process_boundary() -> None:
    codes = {
        InputError: 3,
        BitstreamError: 4,
        UnsupportedError: 5,
        WeightsError: 6,
        DesyncError: 7,
    }
    assert CdcError.exit_code == 1
    assert set(CdcError.__subclasses__()) == set(codes)
    for kind, code in codes.items():
        error = pickle.loads(pickle.dumps(kind("what happened", hint="what to do")))
        assert (type(error), str(error), error.hint) == (kind, "what happened", "what to do")
        assert error.exit_code == code


def test_reading_a_container_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, cdcodec.bitstream; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
