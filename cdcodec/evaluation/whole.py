"""Scores of whole sets of pictures: one number for a codec at a target, not one for a picture."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cdcodec import image
from cdcodec.codec import Pixels
from cdcodec.evaluation import lines, rows
from cdcodec.evaluation.datasets import Source
from cdcodec.evaluation.metrics import SetScore
from cdcodec.evaluation.rows import Row
from cdcodec.evaluation.work import load

KNOWN = "whole.jsonl"

Group = tuple[str, float]
"""Row.curve and Row.target_bpp."""


def measure(
    folder: Path,
    measured: Sequence[Row],
    sources: Sequence[Source],
    scorers: Mapping[str, SetScore],
) -> dict[Group, dict[str, float | None]]:
    """Score the decoded pictures of every curve at every target.

    Args:
        folder: The report's. What was scored before, of the same rows, is read from there.
        measured: Rows; only those with pictures count.
        sources: The originals.
        scorers: By a name that stands for all that their scores depend on.
    """
    groups: dict[Group, list[Row]] = defaultdict(list)
    for row in measured:
        if row.status == rows.OK:
            groups[row.curve, row.target_bpp].append(row)
    originals = {source.sha256: source for source in sources}
    found: dict[Group, dict[str, float | None]] = {group: {} for group in groups}
    if not scorers:
        return found
    known = {key: scores for key, scores in map(tuple, lines.read(folder / KNOWN))}
    with lines.appending(folder / KNOWN) as append:
        for group, members in groups.items():
            for name, scorer in scorers.items():
                key = _fingerprint(name, members)
                if key not in known:
                    known[key] = dict(scorer(_pairs(folder, members, originals)))
                    append([key, known[key]])
                found[group] |= known[key]
    return found


def _pairs(
    folder: Path, members: Sequence[Row], originals: Mapping[str, Source]
) -> Iterator[tuple[Pixels, Pixels]]:
    for row in members:
        yield load(originals[row.sha256]), image.load(folder / row.picture).pixels


def _fingerprint(name: str, members: Sequence[Row]) -> str:
    text = json.dumps([name, *(row.key for row in members)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
