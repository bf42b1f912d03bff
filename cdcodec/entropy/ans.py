"""The thin layer over constriction: exact integer models and one stack of 32-bit words."""

from __future__ import annotations

from typing import NewType, cast

import constriction
import numpy as np
from numpy.typing import NDArray

from cdcodec.errors import DesyncError

PRECISION = 24
"""Bits of a probability: the frequencies of a table sum to 2**PRECISION."""

Model = NewType("Model", object)
"""A distribution over 0..n-1 in constriction's own representation."""


def categorical(frequencies: NDArray[np.int32]) -> Model:
    """Build the model whose integer frequencies are exactly the given ones.

    Args:
        frequencies: int32 [n], n >= 2, every entry >= 1, sum 2**24.
    """
    # constriction gives every symbol one unit and spreads the other 2**24 - n in proportion to its
    # float argument. With f - 1 that factor is exactly 1.0, so what it computes is f itself.
    # `perfect=False` is spelt out because its default has changed across releases.
    return Model(
        constriction.stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)
    )


def uniform(cardinality: int) -> Model:
    """Build the uniform model over 0..cardinality-1; the last value takes what doesn't divide."""
    return Model(constriction.stream.model.Uniform(cardinality))


# A family takes the frequencies less one of every symbol in a row of its own.
_ROWS = constriction.stream.model.Categorical(perfect=False)


class AnsStack:
    """A stack of symbols: the last one pushed is the first one popped."""

    def __init__(self, payload: bytes = b"") -> None:
        """Open a payload that ``to_bytes`` made; the empty one is an empty stack.

        Raises:
            DesyncError: The payload ends in a zero byte, which no writer leaves there.
        """
        if payload.endswith(b"\0"):
            raise DesyncError("entropy-coded data ends in a zero byte")
        padded = payload + bytes(-len(payload) % 4)
        words = np.frombuffer(padded, dtype="<u4").astype(np.uint32)
        self._coder = constriction.stream.stack.AnsCoder(words)

    def push(self, symbols: NDArray[np.int32], model: Model) -> None:
        """Push symbols [n] so that ``pop`` yields them in their order."""
        self._coder.encode_reverse(symbols, model)

    def pop(self, count: int, model: Model) -> NDArray[np.int32]:
        """Pop count symbols of one model. Data that was never pushed gives arbitrary symbols."""
        return cast("NDArray[np.int32]", self._coder.decode(model, count))

    def push_rows(self, symbols: NDArray[np.int32], frequencies: NDArray[np.int32]) -> None:
        """Push symbols [n] with frequencies of their own so that ``pop_rows`` yields them.

        Args:
            symbols: 0..K-1.
            frequencies: int32 [n, K], rules as in ``categorical``.
        """
        self._coder.encode_reverse(symbols, _ROWS, (frequencies - 1).astype(np.float64))

    def pop_rows(self, frequencies: NDArray[np.int64]) -> NDArray[np.int32]:
        """Pop a symbol for each row of frequencies [n, K], n >= 1."""
        parameters = (frequencies - 1).astype(np.float64)
        return cast("NDArray[np.int32]", self._coder.decode(_ROWS, parameters))

    @property
    def is_empty(self) -> bool:
        """Whether the stack is in the state it had before anything was pushed."""
        return bool(self._coder.is_empty())

    def to_bytes(self) -> bytes:
        """Return the words, little-endian, without the zero bytes at the end of the last one."""
        # The last word is never zero, so at most three bytes go and the reader can pad them again.
        words: NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype("<u4").tobytes().rstrip(b"\0")
