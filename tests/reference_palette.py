"""A reader of the palette family in plain Python: the second opinion on formats/families.md, 5.

It shares nothing with the package but the stated format, and is slow. Names are the page's. The
stream below is that of reference_rans.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from tests.reference_rans import ReferenceDecoder

Colour = tuple[int, ...]
Palette = list[Colour]
Map = list[list[int]]
"""Entries, addressed by [row][column]."""

LESSON = 64
"""Positions after which what was read is learnt from."""
BEYOND = 0
"""Where the neighbours' contexts stand among the contexts of a position, see Contexts."""


# Rows of weights, entropy.md


def frequencies(weights: Sequence[int]) -> list[int]:
    """Scale weights to a model of sum 2^24 without a zero."""
    entries, total = len(weights), sum(weights)
    sums = accumulate(weights, initial=0)
    ends = [left * (2**24 - entries) // total + k for k, left in enumerate(sums)]
    return [after - before for before, after in pairwise(ends)]


def pop_rows(decoder: ReferenceDecoder, rows: Sequence[Sequence[int]]) -> list[int]:
    return [decoder.pop(frequencies(row)) if len(row) > 1 else 0 for row in rows]


# The clut chunk


def entries_at(point: int, groups: int) -> int:
    """E(p)."""
    return groups + point + (255 * groups - 255) * point**2 // 255**2
