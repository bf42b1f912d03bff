"""The entropy-coded half of CGDM: the base codec's, and the syntax vector in a chunk of its own.

formats/families.md describes it for other implementations. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdcodec.bitstream.container import ChunkType
from cdcodec.codec import IntArray, Latents, Walk
from cdcodec.entropy.coder import Coder, Reader, Writer
from cdcodec.entropy.tables import Tables
from cdcodec.errors import BitstreamError, WeightsError
from cdcodec.weight_file import EXACT_PREFIX, read_exact

LIMIT = 127
"""Largest magnitude of a value of the syntax vector."""

MAX_SYNTAX_BYTES = 20
"""Longest syntax chunk."""

CRC_BYTES = 4


@dataclass(frozen=True)
class SyntaxTables:
    """How the syntax vector is coded.

    Attributes:
        tables: Zero-mean Gaussians.
        index: Table of every value, uint8 [S].
    """

    tables: Tables
    index: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.index.dtype != np.uint8 or self.index.ndim != 1 or not len(self.index):
            raise WeightsError("syntax_index is not a vector of 8 bits")
        if self.index.max() >= len(self.tables):
            raise WeightsError("syntax_index doesn't fit the tables")

    @classmethod
    def load(cls, path: Path) -> SyntaxTables:
        """Read those of a weight file.

        Raises:
            WeightsError: If the file isn't a post-processor of this family.
        """
        arrays = read_exact(path)
        if f"{EXACT_PREFIX}syntax_index" not in arrays:
            raise WeightsError(f"{path.name} has no tables for syntax vectors")
        tables = Tables.from_arrays(arrays, f"{EXACT_PREFIX}gaussian")
        return cls(tables, arrays[f"{EXACT_PREFIX}syntax_index"])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what load reads, by name."""
        return {
            **self.tables.arrays(f"{EXACT_PREFIX}gaussian"),
            f"{EXACT_PREFIX}syntax_index": self.index,
        }

    def digest(self) -> bytes:
        """Return a SHA-256 over tables and indices."""
        digest = hashlib.sha256(self.tables.digest())
        digest.update(len(self.index).to_bytes(4, "little"))
        digest.update(self.index.tobytes())
        return digest.digest()

    def pack(self, syntax: IntArray) -> bytes:
        """Return the chunk's payload of a vector [S]; nothing for one of zeros.

        It may be longer than a file takes, see `shrink`.
        """
        if not syntax.any():
            return b""
        writer = Writer()
        writer.symbols("syntax", syntax, self.index, self.tables)
        return writer.finish()

    def unpack(self, payload: bytes) -> IntArray:
        """Return the vector [S] of a payload.

        Raises:
            BitstreamError: If it isn't one.
            DesyncError: If the stream doesn't end with the vector.
        """
        if len(payload) > MAX_SYNTAX_BYTES:
            raise BitstreamError(
                f"syntax chunk has {len(payload)} bytes, above the limit of {MAX_SYNTAX_BYTES}"
            )
        if not payload:
            return np.zeros(len(self.index), np.int32)
        reader = Reader(payload)
        syntax = reader.symbols("syntax", None, self.index, self.tables)
        reader.finish()
        if np.abs(syntax).max() > LIMIT:
            raise BitstreamError("syntax chunk has a value of more than 8 bits")
        return syntax

    def shrink(self, syntax: IntArray) -> IntArray:
        """Halve a vector [S] of 8-bit values until a file can take it.

        Trained generators don't come near; an outlier costs 40 bits.
        """
        while len(self.pack(syntax)) > MAX_SYNTAX_BYTES:
            syntax = np.trunc(syntax / 2).astype(np.int32)
        return syntax


class CgdmWalk:
    """The base's walk, and tables for the syntax vector; see codec.SideWalk.

    Attributes:
        base: Of the base codec.
        syntax: Tables of the vector.
        model_id: First 4 bytes of the SHA-256 over the base's id and the tables.
    """

    def __init__(self, base: Walk, syntax: SyntaxTables) -> None:
        self.base = base
        self.syntax = syntax
        self.model_id = hashlib.sha256(base.model_id + syntax.digest()).digest()[:4]

    @property
    def rate_points(self) -> int:
        """Those of the base."""
        return self.base.rate_points

    def code(
        self, coder: Coder, latents: Latents | None, width: int, height: int, point: int
    ) -> Latents:
        """Walk over the base's latents, which the vector doesn't touch; see codec.Walk."""
        bases = {name: values for name, values in (latents or {}).items() if name != "syntax"}
        return self.base.code(coder, bases or None, width, height, point)

    def pack(self, latents: Latents) -> Mapping[ChunkType, bytes]:
        """Return the syntax chunk; until the vector is known, one of the greatest length."""
        syntax = latents.get("syntax")
        payload = bytes(MAX_SYNTAX_BYTES) if syntax is None else self.syntax.pack(syntax)
        return {ChunkType.SYNTAX: payload}

    def unpack(self, chunks: Mapping[ChunkType, bytes]) -> Latents:
        """Return {"syntax": int32 [S]}.

        Raises:
            BitstreamError: If the chunk isn't one that pack makes.
        """
        return {"syntax": self.syntax.unpack(chunks[ChunkType.SYNTAX])}

    def seal(self, syntax: IntArray) -> bytes:
        """Return a vector as a file of its own: model id, the chunk's payload, CRC-32 of both."""
        body = self.model_id + self.syntax.pack(syntax)
        return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")

    def unseal(self, data: bytes) -> IntArray:
        """Return the vector [S] of what seal made, or the neutral one of nothing.

        Raises:
            BitstreamError: If it is damaged, or made for other weights.
            DesyncError: If the vector decodes to something else than was written.
        """
        if not data:
            return self.syntax.unpack(b"")
        body, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
        if zlib.crc32(body).to_bytes(CRC_BYTES, "little") != crc:
            raise BitstreamError("not a syntax vector, or a damaged one")
        if not body.startswith(self.model_id):
            raise BitstreamError("the syntax vector was made for other weights")
        return self.syntax.unpack(body[len(self.model_id) :])
