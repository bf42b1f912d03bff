"""The work on one file: make it, read it back, decode it, compare."""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from cdcodec import image
from cdcodec.codec import Pixels
from cdcodec.errors import CdcError, InputError, OutOfReach
from cdcodec.evaluation import codecs, memory, metrics, rows
from cdcodec.evaluation.contender import Compressed, Contender
from cdcodec.evaluation.datasets import Source
from cdcodec.evaluation.rows import Row

TOLERANCE = 0.1
"""A file smaller than the target by more than this part is a point at another rate, so none."""


@dataclass(frozen=True)
class Job:
    """One file to make, and the numbers of steps to decode it with.

    Attributes:
        codec: Specification, see codecs.create.
        source: The picture.
        target: Bits per pixel.
        steps: Of the decoder; (None,) where it has none.
        metrics: Names of metrics of single pictures.
        device: Where networks run.
        folder: The report's; rows name files relative to it.
        known: Rows of the same work, of which what still stands isn't done again.
    """

    codec: str
    source: Source
    target: float
    steps: tuple[int | None, ...]
    metrics: tuple[str, ...]
    device: str
    folder: Path
    known: tuple[Row, ...] = ()

    @property
    def keys(self) -> list[rows.Key]:
        """The keys of its rows."""
        codec = contender(self.codec, self.device)
        identity = self.source.name, self.source.sha256, codec.label, codec.version
        return [(*identity, self.target, steps) for steps in self.steps]

    def has(self, name: str) -> bool:
        """Tell whether the report has a file of this name."""
        return bool(name) and (self.folder / name).is_file()

    def is_done(self, row: Row) -> bool:
        """Tell whether a row leaves nothing to do. What failed may do better the next time."""
        if row.status != rows.OK:
            return row.status == rows.OUT_OF_REACH
        return self.has(row.file) and self.has(row.picture) and {*self.metrics} <= {*row.scores}


@lru_cache(maxsize=64)
def contender(specification: str, device: str) -> Contender:
    """Return a codec, the same one for the same words."""
    return codecs.create(specification, device)


@lru_cache(maxsize=1)
def load(source: Source) -> Pixels:
    """Return a picture's pixels [H, W, 3] in sRGB, without its alpha plane."""
    return image.to_srgb(image.load(source.path)).pixels


def do(job: Job) -> list[Row]:
    """Do what is left of a job and return its rows.

    Raises:
        InputError: If the picture can't be read or the report can't be written.
    """
    codec = contender(job.codec, job.device)
    known = {row.steps: row for row in job.known if row.status == rows.OK}
    made = next((row for row in known.values() if job.has(row.file)), None)
    if made is None:
        known = {}
        made = _encoded(job, codec)
        if made.status != rows.OK:
            return [replace(made, steps=steps) for steps in job.steps]
    found = []
    for steps in job.steps:
        row = known.get(steps)
        if row is None or not job.has(row.picture):
            row = _decoded(job, codec, replace(made, steps=steps, scores={}))
        found.append(_scored(job, row))
    return found


def _encoded(job: Job, codec: Contender) -> Row:
    """Make the file, and return the row of it as far as that goes."""
    original = load(job.source)
    height, width = original.shape[:2]
    row = Row(
        image=job.source.name,
        sha256=job.source.sha256,
        width=width,
        height=height,
        codec=codec.label,
        version=codec.version,
        target_bpp=job.target,
    )
    try:
        with memory.peak() as used:
            compressed = codec.encode(original, job.target)
        _require_near(compressed, job.target, width * height)
    except CdcError as error:
        status = rows.OUT_OF_REACH if isinstance(error, OutOfReach) else rows.FAILED
        return replace(row, status=status, note=_words(error))
    file = f"files/{_place(row)}{codec.suffix}"
    write(job.folder / file, compressed.data)
    return replace(
        row,
        setting=compressed.setting,
        file_bytes=len(compressed.data),
        bpp=8 * len(compressed.data) / (width * height),
        encode_seconds=compressed.seconds,
        encode_peak_bytes=used.bytes if compressed.peak_bytes is None else compressed.peak_bytes,
        file=file,
    )


def _decoded(job: Job, codec: Contender, row: Row) -> Row:
    """Read the file back and decode it."""
    data = (job.folder / row.file).read_bytes()
    try:
        with memory.peak() as used:
            restored = codec.decode(data, row.steps)
        height, width = restored.pixels.shape[:2]
        if (width, height) != (row.width, row.height):
            raise InputError(f"the decoder gave {width}x{height} pixels, not those of the picture")
    except CdcError as error:
        return replace(row, status=rows.FAILED, note=_words(error))
    png = io.BytesIO()
    Image.fromarray(restored.pixels).save(png, "PNG", compress_level=1)
    way = "" if row.steps is None else f"-{row.steps}"
    picture = f"pictures/{_place(row)}{way}.png"
    write(job.folder / picture, png.getvalue())
    return replace(
        row,
        decode_seconds=restored.seconds,
        decode_peak_bytes=used.bytes if restored.peak_bytes is None else restored.peak_bytes,
        picture=picture,
    )


def _scored(job: Job, row: Row) -> Row:
    """Compare by what the row has no score of yet."""
    missing = tuple(name for name in job.metrics if name not in row.scores)
    if row.status != rows.OK or not missing:
        return row
    decoded = image.load(job.folder / row.picture).pixels
    scores = _scores(job.metrics)
    new = {name: scores[name](load(job.source), decoded) for name in missing}
    return replace(row, scores={**row.scores, **new})


@lru_cache(maxsize=1)
def _scores(names: tuple[str, ...]) -> dict[str, metrics.Score]:
    return metrics.load(names)


def _require_near(compressed: Compressed, target: float, pixels: int) -> None:
    bpp = 8 * len(compressed.data) / pixels
    if bpp > target:
        raise OutOfReach(f"the smallest file has {len(compressed.data):,} bytes, {bpp:.4f} bpp")
    if bpp < (1 - TOLERANCE) * target:
        raise OutOfReach(f"the largest file below the target has {bpp:.4f} bpp")


def _words(error: CdcError) -> str:
    return error.message + (f": {error.hint}" if error.hint else "")


def _place(row: Row) -> str:
    """Return where files of a row go: readable, and no other row's."""
    of = repr((row.image, row.sha256, row.codec, row.version, row.target_bpp))
    tag = hashlib.sha256(of.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{_plain(row.codec)}/{row.target_bpp:g}/{_plain(row.image)}-{tag}"


def _plain(name: str) -> str:
    """Return a name that every file system takes and that stays one path component."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)[-80:].lstrip(".")


def write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
