"""Rows: what was measured, one for each decoded file, as JSON Lines and as CSV."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdcodec.evaluation import lines

OK, OUT_OF_REACH, FAILED = "ok", "out of reach", "failed"

Key = tuple[str, str, str, str, float, int | None]


@dataclass(frozen=True)
class Row:
    """One decoded file, or why there is none.

    Attributes:
        image: Name of the picture, relative to the dataset.
        sha256: First 16 digits, of the picture's file.
        codec: Contender.label; version likewise.
        target_bpp: What was asked for.
        steps: Of the decoder; None if the codec has none.
        status: OK; OUT_OF_REACH: the codec has no file of that size; FAILED: it should have.
        note: Why it isn't OK.
        setting: What the codec chose to meet the target.
        file_bytes: Size of the whole file; bpp is made of it. 0 and None when out of reach.
        scores: By name of the metric; None where it isn't defined for such a picture.
        encode_seconds: Wall time per stage; decode_seconds likewise.
        encode_peak_bytes: Memory that the work took at most, see memory.Peak, or a program that did
            it; None if not known. decode_peak_bytes likewise.
        file: The compressed file, relative to the report; empty when out of reach.
        picture: The decoded picture as PNG, likewise.
    """

    image: str
    sha256: str
    width: int
    height: int
    codec: str
    version: str
    target_bpp: float
    steps: int | None = None
    status: str = OK
    note: str = ""
    setting: str = ""
    file_bytes: int = 0
    bpp: float | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    encode_seconds: Mapping[str, float] = field(default_factory=dict)
    decode_seconds: Mapping[str, float] = field(default_factory=dict)
    encode_peak_bytes: int | None = None
    decode_peak_bytes: int | None = None
    file: str = ""
    picture: str = ""

    @property
    def key(self) -> Key:
        """What makes two rows the same measurement."""
        return self.image, self.sha256, self.codec, self.version, self.target_bpp, self.steps

    @property
    def curve(self) -> str:
        """Name of the line in plots and tables that the row belongs to."""
        if self.steps is None:
            return self.codec
        return f"{self.codec}, {self.steps} step{'' if self.steps == 1 else 's'}"


def read(path: Path) -> list[Row]:
    """Return the rows of a file that `as_line` was appended to, the last for each key.

    What is no row, such as one of another version, is passed over: it will be measured again.
    """
    found = []
    for line in lines.read(path):
        with contextlib.suppress(TypeError):
            found.append(Row(**line))
    return list({row.key: row for row in found}.values())


def as_line(row: Row) -> dict[str, Any]:
    """Return a row as `lines` takes it."""
    return dataclasses.asdict(row)


def to_csv(rows: Iterable[Row]) -> str:
    """Return rows as a table: one column for every field, score and stage."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(name for line in flat for name in line))
    columns.sort(key=lambda name: "." in name)  # what differs between codecs comes last
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, value in dataclasses.asdict(row).items():
        if name == "scores":
            line |= value
        elif name in ("encode_seconds", "decode_seconds"):
            stage = name.removesuffix("_seconds")
            line[name] = round(sum(value.values()), 4) if row.status == OK else None
            line |= {f"{stage}.{key}": round(seconds, 4) for key, seconds in value.items()}
        else:
            line[name] = value
    return line
