"""A decoder of the entropy-coded stream in plain Python: the second opinion on formats/entropy.md.

It shares nothing with the package but the stated format, and is slow.
"""

from __future__ import annotations

from collections.abc import Sequence

Table = tuple[int, list[int]]
"""Smallest value and frequencies, the escape symbol last."""

LENGTHS = [2 ** (23 - k) for k in range(17)] + [2**7]


class ReferenceDecoder:
    """rANS with 32-bit words, 64 bits of state, 24 bits of precision."""

    def __init__(self, payload: bytes) -> None:
        padded = payload + bytes(-len(payload) % 4)
        self.words = [int.from_bytes(padded[i : i + 4], "little") for i in range(0, len(padded), 4)]
        self.state = 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def pop(self, frequencies: Sequence[int]) -> int:
        quantile = self.state % 2**24
        symbol, left = 0, 0
        while left + frequencies[symbol] <= quantile:
            left += frequencies[symbol]
            symbol += 1
        self.state = frequencies[symbol] * (self.state >> 24) + quantile - left
        if self.state < 2**32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return symbol

    def pop_uniform(self, cardinality: int) -> int:
        share = 2**24 // cardinality
        last = 2**24 - share * (cardinality - 1)
        return self.pop([share] * (cardinality - 1) + [last]) if cardinality > 1 else 0

    def symbols(self, table_index: Sequence[int], tables: Sequence[Table]) -> list[int]:
        order = sorted(range(len(table_index)), key=lambda i: (table_index[i], i))
        popped = {i: self.pop(tables[table_index[i]][1]) for i in order}
        values = [tables[t][0] + popped[i] for i, t in enumerate(table_index)]
        escaped = [i for i in order if popped[i] == len(tables[table_index[i]][1]) - 1]
        lengths = {i: self.pop(LENGTHS) for i in escaped}
        for i in sorted(escaped, key=lambda i: lengths[i]):
            excess = (1 << lengths[i]) + self.pop_uniform(1 << lengths[i]) - 1
            low = tables[table_index[i]][0]
            values[i] = low - 1 - excess // 2 if excess % 2 else values[i] + excess // 2
        return values

    @property
    def is_empty(self) -> bool:
        return self.state == 0 and not self.words
