"""The ``.cdc`` container: header, chunks, checksum and limits (``formats/container.md``)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from cdcodec.bitstream.binary import ByteReader, varint_bytes
from cdcodec.errors import BitstreamError, CdcError, InputError, UnsupportedError

FORMAT_VERSION = 1
MAGIC = b"\xcdDC"  # the first byte is no ASCII, and the three are no UTF-8: tools see a binary file

BODY_OFFSET = len(MAGIC) + 1  # what stands before it never changes, in no version
MODEL_ID_BYTES = 4
CRC_BYTES = 4
ANCILLARY_BIT = 0x80
COLOUR_GREY = 1

MAX_FILE_BYTES = 64 * 2**20
MAX_SIDE = 65_535  # pixels
MAX_PIXELS = 178_956_970  # where Pillow stops too; a reader may be told otherwise
MAX_STEPS = 250  # what a file may ask for; a user may ask for more
MAX_CHUNKS = 64  # else 64 MiB of empty chunks would become gigabytes of objects
MAX_ICC_BYTES = 4 * 2**20
MAX_EXIF_BYTES = 2**20
MAX_XMP_BYTES = 2**20
MAX_TEXT_BYTES = 64 * 2**10


class ChunkType(IntEnum):
    """Types of chunks that this version knows; bit 7 marks a chunk that a reader may skip."""

    LATENTS = 0x01
    CLUT = 0x02
    SYNTAX = 0x03
    ALPHA = 0x04
    COLOUR = 0x05
    ICC = 0x81
    EXIF = 0x82
    XMP = 0x83
    TEXT = 0x84


METADATA_LIMITS: Mapping[int, int] = MappingProxyType(
    {
        ChunkType.ICC: MAX_ICC_BYTES,
        ChunkType.EXIF: MAX_EXIF_BYTES,
        ChunkType.XMP: MAX_XMP_BYTES,
    }
)
"""Largest size in bytes of each kind of metadata, both packed and unpacked."""

_PAYLOAD_LIMITS = {**METADATA_LIMITS, ChunkType.TEXT: MAX_TEXT_BYTES}
_KNOWN_TYPES = frozenset(ChunkType)
_SINGLE_TYPES = _KNOWN_TYPES - {ChunkType.TEXT}


@dataclass(frozen=True)
class Header:
    """What a reader must know before it looks at any chunk.

    Attributes:
        family: Frozen id of the family, 1..255 (``formats/families.md``).
        model_id: First four bytes of the SHA-256 that names the weight set.
        width: Width of the image in pixels, before padding, 1..65,535.
        height: Height of the image in pixels, before padding, 1..65,535.
        point: Rate point, 0..255.
        steps: Default number of diffusion steps, 0..250.
    """

    family: int
    model_id: bytes
    width: int
    height: int
    point: int
    steps: int


@dataclass(frozen=True)
class Chunk:
    """A typed piece of a file."""

    type: int
    payload: bytes

    @property
    def ancillary(self) -> bool:
        """Whether a reader that doesn't know this type may skip the chunk."""
        return bool(self.type & ANCILLARY_BIT)

    @property
    def name(self) -> str:
        """Name of the type in lower case, or its number in hexadecimal where it has none."""
        if self.type in _KNOWN_TYPES:
            return ChunkType(self.type).name.lower()
        return f"0x{self.type:02x}"


@dataclass(frozen=True)
class Container:
    """A whole file: its header, and its chunks in the order of the file."""

    header: Header
    chunks: tuple[Chunk, ...]

    def chunk(self, type: int) -> bytes | None:
        """Return the payload of the first chunk of a type, or None if there is none."""
        return next((chunk.payload for chunk in self.chunks if chunk.type == type), None)


def write(container: Container) -> bytes:
    """Write a container as the bytes of a file.

    Raises:
        InputError: The image or its metadata is too large for the format, or the metadata isn't
            packed as `pack_metadata` does it.
        ValueError: The container breaks another rule of the format, which is the caller's bug.
    """
    _check_writable_sizes(container)
    try:
        _check_header(container.header)
        _check_chunks(container.chunks)
    except CdcError as error:
        raise ValueError(f"the format has no such file: {error}") from error
    header = container.header
    parts = [
        MAGIC,
        bytes([FORMAT_VERSION, header.family]),
        header.model_id,
        varint_bytes(header.width),
        varint_bytes(header.height),
        bytes([header.point, header.steps]),
    ]
    for chunk in container.chunks:
        parts += [bytes([chunk.type]), varint_bytes(len(chunk.payload)), chunk.payload]
    body = b"".join(parts)
    if len(body) + CRC_BYTES > MAX_FILE_BYTES:
        raise InputError(f"the file would be larger than {MAX_FILE_BYTES} bytes")
    return body + _crc_bytes(body)


def read(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Container:
    """Read the bytes of a whole file.

    Metadata stays packed (see `unpack_metadata`); nothing is allocated beyond the file's own size.

    Args:
        data: The file.
        max_pixels: Refuse images with more pixels than this.

    Raises:
        BitstreamError: The data isn't a cdcodec file, or it is damaged or cut short.
        UnsupportedError: The file needs a newer cdcodec, or has more pixels than max_pixels.
    """
    if not data.startswith(MAGIC):
        raise BitstreamError("not a cdcodec file" if data else "not a cdcodec file: it is empty")
    _check_version(ByteReader(data[len(MAGIC) : BODY_OFFSET]).u8("format version"))
    if len(data) > MAX_FILE_BYTES:
        raise BitstreamError(f"file is {len(data)} bytes long, above the limit of {MAX_FILE_BYTES}")
    _check_crc(data)
    return _read_body(data[BODY_OFFSET:-CRC_BYTES], max_pixels)


def pack_metadata(raw: bytes) -> bytes:
    """Pack ICC, EXIF or XMP data for its chunk."""
    return zlib.compress(raw, 9)


def unpack_metadata(payload: bytes, limit: int) -> bytes:
    """Unpack ICC, EXIF or XMP data, never growing beyond limit bytes.

    Raises:
        BitstreamError: The payload isn't one whole zlib stream, or unpacks to more than limit.
    """
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(payload, limit + 1)
    except zlib.error as error:
        raise BitstreamError("packed metadata is damaged") from error
    if len(raw) > limit:
        raise BitstreamError(f"metadata unpacks to more than {limit} bytes")
    if not inflater.eof:
        raise BitstreamError("packed metadata is cut short")
    if inflater.unused_data:
        raise BitstreamError(f"{len(inflater.unused_data)} bytes follow the packed metadata")
    return raw


def _crc_bytes(body: bytes | memoryview) -> bytes:
    return zlib.crc32(body).to_bytes(CRC_BYTES, "little")


def _check_version(version: int) -> None:
    if version > FORMAT_VERSION:
        raise UnsupportedError(
            f"format version {version} needs a newer cdcodec: this one reads up to version "
            f"{FORMAT_VERSION}",
            hint="upgrade cdcodec",
        )
    if version < 1:
        raise BitstreamError(f"format version {version} does not exist")


def _check_crc(data: bytes) -> None:
    if len(data) < BODY_OFFSET + CRC_BYTES:
        raise BitstreamError(f"file ends after {len(data)} bytes, within its header")
    if _crc_bytes(memoryview(data)[:-CRC_BYTES]) != data[-CRC_BYTES:]:
        raise BitstreamError("checksum does not match: the file is damaged or cut short")


def _read_body(body: bytes, max_pixels: int) -> Container:
    """Read all that lies between the version and the checksum."""
    reader = ByteReader(body)
    header = Header(
        family=reader.u8("family"),
        model_id=reader.read_exactly(MODEL_ID_BYTES, "model id"),
        width=reader.varint(MAX_SIDE, "width"),
        height=reader.varint(MAX_SIDE, "height"),
        point=reader.u8("rate point"),
        steps=reader.u8("step count"),
    )
    _check_header(header)
    if header.width * header.height > max_pixels:
        raise UnsupportedError(
            f"image of {header.width} x {header.height} pixels is above the limit of "
            f"{max_pixels} pixels",
            hint="--max-pixels raises the limit",
        )
    chunks = tuple(_read_chunks(reader))
    _check_chunks(chunks)
    return Container(header, chunks)


def _read_chunks(reader: ByteReader) -> Iterable[Chunk]:
    count = 0
    while reader.remaining:
        count += 1
        if count > MAX_CHUNKS:
            raise BitstreamError(f"file has more than {MAX_CHUNKS} chunks")
        kind = reader.u8("chunk type")
        length = reader.varint(MAX_FILE_BYTES, "chunk length")
        yield Chunk(kind, reader.read_exactly(length, f"payload of chunk 0x{kind:02x}"))


def _check_header(header: Header) -> None:
    _check_range("family", header.family, 1, 255)
    if len(header.model_id) != MODEL_ID_BYTES:
        raise BitstreamError(f"model id has {len(header.model_id)} bytes, not {MODEL_ID_BYTES}")
    _check_range("width", header.width, 1, MAX_SIDE)
    _check_range("height", header.height, 1, MAX_SIDE)
    _check_range("rate point", header.point, 0, 255)
    _check_range("step count", header.steps, 0, MAX_STEPS)


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BitstreamError(f"{what} is {value}, not in {low}..{high}")


def _check_chunks(chunks: tuple[Chunk, ...]) -> None:
    if len(chunks) > MAX_CHUNKS:
        raise BitstreamError(f"file has more than {MAX_CHUNKS} chunks")
    seen: set[int] = set()
    for chunk in chunks:
        _check_chunk(chunk)
        if chunk.type in seen and chunk.type in _SINGLE_TYPES:
            raise BitstreamError(f"file has more than one {chunk.name} chunk")
        seen.add(chunk.type)
    if ChunkType.LATENTS not in seen:
        raise BitstreamError("file has no latents chunk")


def _check_chunk(chunk: Chunk) -> None:
    _check_range("chunk type", chunk.type, 0, 255)
    if chunk.type not in _KNOWN_TYPES and not chunk.ancillary:
        raise UnsupportedError(
            f"critical chunk {chunk.name} is unknown: the file needs a newer cdcodec",
            hint="upgrade cdcodec",
        )
    limit = _PAYLOAD_LIMITS.get(chunk.type, MAX_FILE_BYTES)
    if len(chunk.payload) > limit:
        raise BitstreamError(
            f"{chunk.name} chunk has {len(chunk.payload)} bytes, above the limit of {limit}"
        )
    if chunk.type == ChunkType.COLOUR:
        _check_colour(chunk.payload)
    elif chunk.type == ChunkType.TEXT:
        _check_text(chunk.payload)


def _check_colour(payload: bytes) -> None:
    if len(payload) != 1:
        raise BitstreamError(f"colour chunk has {len(payload)} bytes, not 1")
    if payload[0] != COLOUR_GREY:
        raise UnsupportedError(
            f"colour {payload[0]} is unknown: the file needs a newer cdcodec",
            hint="upgrade cdcodec",
        )


def _check_text(payload: bytes) -> None:
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BitstreamError("text chunk is not UTF-8") from error


def _check_writable_sizes(container: Container) -> None:
    """Refuse what a user's own image can break, before anything is called a bug."""
    header = container.header
    if max(header.width, header.height) > MAX_SIDE:
        raise InputError(
            f"image of {header.width} x {header.height} pixels is too large: a file holds up to "
            f"{MAX_SIDE} pixels a side"
        )
    for chunk in container.chunks:
        limit = METADATA_LIMITS.get(chunk.type)
        if limit is None:
            continue
        try:
            if len(chunk.payload) > limit:
                raise BitstreamError(f"packed metadata has more than {limit} bytes")
            unpack_metadata(chunk.payload, limit)
        except BitstreamError as error:
            raise InputError(
                f"{chunk.name} metadata can't be kept: {error}", hint="--metadata none drops it"
            ) from error
