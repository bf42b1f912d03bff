"""The ``.cdc`` byte layout, read and written without numpy or torch.

``formats/container.md`` is the normative description; this package follows it.
"""

from cdcodec.bitstream.binary import ByteReader, varint_bytes
from cdcodec.bitstream.container import (
    FORMAT_VERSION,
    MAGIC,
    MAX_CHUNKS,
    MAX_EXIF_BYTES,
    MAX_FILE_BYTES,
    MAX_ICC_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_STEPS,
    MAX_TEXT_BYTES,
    MAX_XMP_BYTES,
    METADATA_LIMITS,
    Chunk,
    ChunkType,
    Container,
    Header,
    pack_metadata,
    read,
    unpack_metadata,
    write,
)

__all__ = [
    "FORMAT_VERSION",
    "MAGIC",
    "MAX_CHUNKS",
    "MAX_EXIF_BYTES",
    "MAX_FILE_BYTES",
    "MAX_ICC_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MAX_STEPS",
    "MAX_TEXT_BYTES",
    "MAX_XMP_BYTES",
    "METADATA_LIMITS",
    "ByteReader",
    "Chunk",
    "ChunkType",
    "Container",
    "Header",
    "pack_metadata",
    "read",
    "unpack_metadata",
    "varint_bytes",
    "write",
]
