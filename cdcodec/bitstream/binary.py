"""Exact reads of bytes and varints from memory."""

from __future__ import annotations

from cdcodec.errors import BitstreamError

MAX_VARINT_BYTES = 5
MAX_VARINT = 2 ** (7 * MAX_VARINT_BYTES) - 1


class ByteReader:
    """Read fields from data one after another, never beyond its end.

    Every failure is a BitstreamError that says which field is short or wrong, and by how much.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def read_exactly(self, count: int, what: str = "field") -> bytes:
        """Read count bytes.

        Raises:
            BitstreamError: Fewer than count bytes are left.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, not {count}")
        missing = count - self.remaining
        if missing > 0:
            raise BitstreamError(f"data ends {missing} bytes short of a {count}-byte {what}")
        start = self._position
        self._position += count
        return self._data[start : self._position]

    def u8(self, what: str = "field") -> int:
        """Read one byte as a number in 0..255.

        Raises:
            BitstreamError: No byte is left.
        """
        return self.read_exactly(1, what)[0]

    def varint(self, limit: int, what: str) -> int:
        """Read an unsigned LEB128 number of at most five bytes, in its shortest form.

        Args:
            limit: Largest value that is accepted.
            what: Name of the field, for messages.

        Raises:
            BitstreamError: The number is cut short, too long, padded, or above limit.
        """
        value = 0
        for index in range(MAX_VARINT_BYTES):
            byte = self.u8(what)
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                break
        else:
            raise BitstreamError(f"{what} is longer than {MAX_VARINT_BYTES} bytes")
        if byte == 0 and index > 0:
            raise BitstreamError(f"{what} is not in its shortest form")
        if value > limit:
            raise BitstreamError(f"{what} is {value}, above the limit of {limit}")
        return value

    def expect_end(self, what: str = "data") -> None:
        """Make sure that everything was read.

        Raises:
            BitstreamError: Bytes are left over.
        """
        if self.remaining:
            raise BitstreamError(f"{what} goes on for {self.remaining} bytes after its end")


def varint_bytes(value: int) -> bytes:
    """Write value, 0..2**35 - 1, as the shortest unsigned LEB128 number."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"a varint holds 0..{MAX_VARINT}, not {value}")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
