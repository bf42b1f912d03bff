"""The only maker of formats/vectors: `python -m tests.make_vectors [--replace NAME ...]`.

NAME.cdc is a file, NAME.toml says what must come out of it and why it is there. A vector that
exists is never replaced by other bytes unless its name is given: files of a released version must
decode for ever, and what float networks make of a picture differs a little between machines.
Files that must be refused are made from the stored sound ones.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdcodec import api, families, image
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType, Container, Header
from cdcodec.codec import Decoding
from cdcodec.entropy import ans
from cdcodec.entropy.coder import Writer
from cdcodec.errors import (
    BitstreamError,
    CdcError,
    DesyncError,
    UnsupportedError,
    WeightsError,
)
from cdcodec.families.cdc.walk import CdcWalk

FOLDER = Path(__file__).resolve().parent.parent / "formats" / "vectors"
MODEL = "cdc-tiny"
PIXELS_PSNR_DB = 45.0
"""Measured: 61 dB between bfloat16 and float32, 65 between instruction sets; the rest is margin."""

Table = dict[str, Any]


@dataclass(frozen=True)
class Vector:
    """A file and what must come out of it.

    Attributes:
        why: What the file is there to show.
        expect: The other entries of its TOML file.
        picture: Decoded pixels, kept as a PNG file, for some.
    """

    name: str
    why: str
    data: bytes
    expect: Table
    picture: bytes | None = None


def crop(name: str, top: int, left: int, height: int, width: int) -> Image.Image:
    """Cut a piece out of one of scikit-image's photographs."""
    from skimage import data

    pixels = getattr(data, name)()
    return Image.fromarray(np.ascontiguousarray(pixels[top : top + height, left : left + width]))


def ramps(height: int, width: int) -> np.ndarray:
    """Return uint8 [height, width] that rises to the right and falls to the bottom."""
    rows, columns = np.mgrid[:height, :width]
    return (128 + 120 * (columns / max(1, width) - rows / max(1, height))).astype(np.uint8)


def translucent() -> bytes:
    """Return a PNG file with colour, alpha and a colour profile."""
    colour = np.array(crop("coffee", 120, 200, 12, 20))
    alpha = ramps(12, 20)
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([colour, alpha])).save(buffer, "png", icc_profile=profile())
    return buffer.getvalue()


def profile() -> bytes:
    """Return a small ICC profile, sRGB's primaries with a gamma of 2.2, always the same bytes."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    text = b"cdcodec\0"
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(12 + 67)
    tags = {
        b"desc": description + bytes(-len(description) % 4),
        b"cprt": b"text\0\0\0\0" + text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma),
    }
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">2I", offset + len(body), len(tag))
        body += tag
    size = offset + len(body)
    head = struct.pack(">I4xI", size, 0x02400000) + b"mntrRGB XYZ "
    head += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", round(0.9642 * 65536), 65536, round(0.8249 * 65536))
    return head + bytes(128 - len(head)) + table + body


def sound(folder: Path) -> Iterator[Vector]:
    """Yield the files that must decode."""
    kitten = crop("chelsea", 90, 130, 48, 64)
    yield _encoded("crop-64x48", "a photograph, with the pixels of ddim", kitten, 60, steps=5)
    yield _encoded(
        "odd-63x65",
        "neither side is a multiple of 16 or 64",
        crop("rocket", 0, 300, 65, 63),
        60,
        steps=3,
    )
    yield _encoded("one-pixel", "the smallest image", Image.new("RGB", (1, 1), (200, 30, 60)), 60)
    yield _encoded(
        "column-1x70",
        "one column that crosses the border of a hyper-latent",
        Image.fromarray(np.repeat(ramps(70, 1)[:, :, None], 3, 2)),
        60,
    )
    yield _encoded("grey-17x13", "colour chunk: one channel", Image.fromarray(ramps(13, 17)), 60)
    yield _encoded("alpha-icc-20x12", "alpha plane and colour profile", translucent(), 30)
    astronaut = crop("astronaut", 10, 160, 80, 96)
    yield _encoded("lowest-point", "the first rate point", astronaut, 0)
    yield _encoded("highest-point", "the last rate point", astronaut, 100)
    yield _described(
        "escapes-80x48",
        "values far outside of every table, z beyond the input limit of h_s",
        _escapes(),
    )
    yield _described(
        "empty-stream",
        "each symbol is the first of its table, which takes no bytes",
        _edited(_base(folder), payload=b"", width=1, height=1),
    )
    plain = box.read(_base(folder))
    extras = (
        Chunk(0xF0, b"from the future"),
        *plain.chunks,
        Chunk(ChunkType.TEXT, "first note, ünïcode".encode()),
        Chunk(ChunkType.EXIF, box.pack_metadata(b"MM\0*\0\0\0\x08\0\0\0\0\0\0")),
        Chunk(ChunkType.XMP, box.pack_metadata(b"<x:xmpmeta/>")),
        Chunk(ChunkType.TEXT, b"second note"),
        Chunk(0xF0, b""),
    )
    yield _described(
        "ancillary-chunks",
        "unknown ancillary chunks are skipped, text may be there "
        "twice, and the latents need not come first",
        box.write(replace(plain, chunks=extras)),
    )
    for family in ("rdeic", "diffeic"):
        yield _encoded(
            f"{family}-86x70",
            f"family {family}: its hyper-latent, and y under a space-channel context",
            crop("astronaut", 10, 160, 70, 86),
            70,
            steps=2,
            model=f"{family}-tiny",
        )
    yield _encoded(
        "cgdm-86x70",
        "family cgdm: its base's latents, and a syntax vector in a chunk of its own",
        crop("astronaut", 10, 160, 70, 86),
        70,
        steps=2,
        model="cgdm-tiny",
    )
    yield _encoded(
        "palette-86x70",
        "family palette: palettes in a chunk of their own, and index maps under contexts",
        crop("astronaut", 10, 160, 70, 86),
        40,
        steps=2,
        model="palette-tiny",
    )
    yield _described(
        "no-steps", "advises 0 steps, which cdc takes as 1", _edited(_base(folder), steps=0)
    )


def refused(name: str, why: str, data: bytes, error: type[CdcError], by: str = "info") -> Vector:
    """Describe a file that `info`, else `info --verify`, else `decode` is the first to refuse."""
    table = {"error": error.__name__, "exit_code": error.exit_code, "refused_by": by}
    return Vector(name, why, data, table)


def broken_bytes(folder: Path) -> Iterator[Vector]:
    """Yield files that fail before their chunks are looked at, made from crop-64x48."""
    base = _base(folder)
    body = base[:-4]
    yield refused("empty", "no bytes at all", b"", BitstreamError)
    yield refused(
        "bad-magic",
        "not ours, whatever the CRC says",
        _sealed(b"\xceDC" + body[3:]),
        BitstreamError,
    )
    yield refused(
        "newer-version",
        "version 2, with a layout that nobody knows",
        body[:3] + b"\x02anything",
        UnsupportedError,
    )
    yield refused(
        "version-0", "there is none", _sealed(body[:3] + b"\0" + body[4:]), BitstreamError
    )
    yield refused(
        "bad-crc",
        "one bit of the payload is wrong",
        body[:-9] + bytes([body[-9] ^ 4]) + base[-12:],
        BitstreamError,
    )
    yield refused("truncated", "the last byte is missing", base[:-1], BitstreamError)
    yield refused("header-only", "ends within the header", base[:11], BitstreamError)
    yield refused("trailing-bytes", "a byte follows the CRC", base + b"\0", BitstreamError)
    yield refused("unknown-family", "family 200", _edited(base, family=200), UnsupportedError)
    yield refused(
        "unknown-model-id",
        "no weight set has this id; info can still describe the file",
        _edited(base, model_id=b"\xff\xfe\xfd\xfc"),
        WeightsError,
        "verify",
    )
    yield refused(
        "padded-varint",
        "width 64 as c0 00 instead of 40",
        _sealed(body[:9] + b"\xc0\0" + body[10:]),
        BitstreamError,
    )
    yield refused("zero-width", "no columns", _sealed(body[:9] + b"\0" + body[10:]), BitstreamError)
    yield refused(
        "too-many-pixels",
        "65,535 x 65,535: beyond the default limit",
        _sealed(body[:9] + b"\xff\xff\x03\xff\xff\x03" + body[11:]),
        UnsupportedError,
    )
    yield refused(
        "too-many-steps", "251 steps", _sealed(body[:12] + b"\xfb" + body[13:]), BitstreamError
    )
    yield refused(
        "point-beyond-model",
        "rate point 16 of cdc-tiny's 0 to 15",
        _edited(base, point=16),
        BitstreamError,
        "verify",
    )


def broken_chunks(folder: Path) -> Iterator[Vector]:
    """Yield files with chunks that must not be there, or not so."""
    base = _base(folder)
    chunks = box.read(base).chunks

    def chunked(*more: Chunk) -> bytes:
        return _unchecked(base, (*chunks, *more))

    yield refused(
        "unknown-critical-chunk", "type 0x3f", chunked(Chunk(0x3F, b"?")), UnsupportedError
    )
    yield refused(
        "unknown-colour", "colour 2", chunked(Chunk(ChunkType.COLOUR, b"\x02")), UnsupportedError
    )
    yield refused(
        "useless-clut",
        "cdc has no use for a clut chunk",
        chunked(Chunk(ChunkType.CLUT, bytes(6))),
        BitstreamError,
        "verify",
    )
    yield refused("two-latents", "only text may be there twice", chunked(*chunks), BitstreamError)
    yield refused(
        "no-latents",
        "a text chunk is all there is",
        _unchecked(base, (Chunk(ChunkType.TEXT, b"nothing"),)),
        BitstreamError,
    )
    yield refused("too-many-chunks", "65 chunks", chunked(*[Chunk(0xF0, b"")] * 64), BitstreamError)
    yield refused(
        "long-chunk",
        "a length one beyond the bytes that are left",
        _sealed(base[:-4] + b"\xf0\x01"),
        BitstreamError,
    )
    yield refused(
        "damaged-alpha",
        "the alpha plane inflates to one row too few",
        chunked(Chunk(ChunkType.ALPHA, b"\x01" + zlib.compress(bytes(64 * 47)))),
        BitstreamError,
        "decode",
    )
    yield refused(
        "icc-bomb",
        "4 MiB and a byte, in a few thousand bytes",
        chunked(Chunk(ChunkType.ICC, zlib.compress(bytes(4 * 2**20 + 1), 9))),
        BitstreamError,
        "decode",
    )


def broken_streams(folder: Path) -> Iterator[Vector]:
    """Yield files whose streams no encoder writes."""
    base = _base(folder)
    payload = box.read(base).chunks[0].payload
    yield refused(
        "leftover-symbols",
        "one value too many in the stream",
        _edited(base, payload=_with_one_more(base)),
        DesyncError,
        "verify",
    )
    yield refused(
        "lost-symbols",
        "the stream lacks its first word, which is read last",
        _edited(base, payload=payload[4:]),
        DesyncError,
        "verify",
    )
    yield refused(
        "zero-ended-stream",
        "a second spelling of the same stream",
        _edited(base, payload=payload + bytes(4)),
        DesyncError,
        "verify",
    )
    yield refused(
        "value-out-of-range",
        "an escape to beyond 32,768",
        _edited(base, payload=_too_far(), width=1, height=1),
        DesyncError,
        "verify",
    )


def store(vector: Vector, folder: Path, *, may_replace: bool) -> bool:
    """Write a vector's files, and return whether they are now as they should be."""
    files = {f"{vector.name}.cdc": vector.data, f"{vector.name}.toml": _toml(vector)}
    if vector.picture is not None:
        files[f"{vector.name}.png"] = vector.picture
    paths = {folder / name: data for name, data in files.items()}
    # The pixels may differ in their last bits: they are kept with the file that they belong to.
    kept = [p for p in paths if p.exists() and p.suffix != ".png"]
    if not may_replace and any(p.read_bytes() != paths[p] for p in kept):
        return False
    for path, data in paths.items():
        if may_replace or not path.exists():
            path.write_bytes(data)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing; 1 if an existing vector would have come out otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.make_vectors", description=__doc__)
    parser.add_argument("--replace", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    differing = []
    for maker in (sound, broken_bytes, broken_chunks, broken_streams):
        for vector in maker(options.folder):
            if not store(vector, options.folder, may_replace=vector.name in options.replace):
                differing.append(vector.name)
    if differing:
        sys.stderr.write(f"kept as they were, but would come out otherwise: {differing}\n")
    return 1 if differing else 0


def _encoded(
    name: str,
    why: str,
    source: Image.Image | bytes,
    quality: float,
    *,
    steps: int | None = None,
    model: str = MODEL,
) -> Vector:
    """Encode an image; with steps, its pixels come along."""
    encoded = api.encode(source, quality=quality, model=model, steps=steps, device="cpu")
    vector = _described(name, why, encoded.data)
    if steps is None:
        return vector
    decoded = api.decode(vector.data, Decoding(device="cpu"))
    buffer = io.BytesIO()
    image.save(decoded.picture, buffer, "png")
    pixels = {"decoder": decoded.decoder, "steps": steps, "seed": 0, "psnr_db": PIXELS_PSNR_DB}
    return replace(vector, expect={**vector.expect, "pixels": pixels}, picture=buffer.getvalue())


def _described(name: str, why: str, data: bytes) -> Vector:
    """Ask the package itself; test_vectors.py asks a second implementation too."""
    info = api.info(data, verify=True)
    file = box.read(data)
    alpha = file.chunk(ChunkType.ALPHA)
    icc = file.chunk(ChunkType.ICC)
    expect: Table = {
        "file_bytes": len(data),
        "family": info.family,
        "model_id": info.model_id,
        "width": info.width,
        "height": info.height,
        "point": info.point,
        "steps": info.steps,
        "grey": info.grey,
        "chunks": [f"{kind} {size}" for kind, size in info.chunks],
        "symbols_sha256": info.symbols_sha256,
    }
    if alpha is not None:
        plane = image.decode_alpha(alpha, info.width, info.height)
        expect["alpha_sha256"] = hashlib.sha256(plane.tobytes()).hexdigest()
    if icc is not None:
        raw = box.unpack_metadata(icc, box.MAX_ICC_BYTES)
        expect["icc_sha256"] = hashlib.sha256(raw).hexdigest()
    expect["bits"] = {latent: round(bits, 3) for latent, bits in info.bits.items()}
    return Vector(name, why, data, expect)


def _base(folder: Path) -> bytes:
    return (folder / "crop-64x48.cdc").read_bytes()


def _sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def _unchecked(data: bytes, chunks: Sequence[Chunk]) -> bytes:
    """Put chunks behind a file's header without any of the writer's checks."""
    header = box.read(data).header
    head = box.write(Container(header, (Chunk(ChunkType.LATENTS, b""),)))[:-6]
    parts = [bytes([c.type]) + box.varint_bytes(len(c.payload)) + c.payload for c in chunks]
    return _sealed(head + b"".join(parts))


def _edited(data: bytes, payload: bytes | None = None, **fields: Any) -> bytes:
    """Change header fields or the stream of a file whose only chunk it is."""
    file = box.read(data)
    chunks = file.chunks if payload is None else (Chunk(ChunkType.LATENTS, payload),)
    return box.write(Container(replace(file.header, **fields), chunks))


def _escapes() -> bytes:
    """Return a file whose values are mostly escapes."""
    walk = families.load_walk(MODEL, True)
    assert isinstance(walk, CdcWalk)
    width, height, point = 80, 48, 5
    z = np.array([-32768, 32768, 300, -300, 0, -1, 7, -7], np.int32).reshape(4, 1, 2)
    mean = walk.h_s(z)[:8, :3, :5]
    powers = np.concatenate([2 ** np.arange(16), -(2 ** np.arange(16)), [100, 0]])
    y = np.resize(powers * 64, mean.shape).astype(np.int32) + mean
    writer = Writer()
    walk.code(writer, {"z": z, "y": y}, width, height, point)
    header = Header(1, walk.model_id, width, height, point, 1)
    return box.write(Container(header, (Chunk(ChunkType.LATENTS, writer.finish()),)))


def _with_one_more(data: bytes) -> bytes:
    """Return the stream of a file with a further value at its end."""
    file = box.read(data)
    walk = families.load_walk(MODEL, True)
    header = file.header
    at = header.width, header.height, header.point
    latents = walk.code(api.Reader(file.chunks[0].payload), None, *at)
    writer = Writer()
    walk.code(writer, latents, *at)
    writer.uniform("more", np.array([3]), 7, (1,))
    return writer.finish()


def _too_far() -> bytes:
    """Return a stream whose first array, z of a one-pixel image, has too long an escape."""
    walk = families.load_walk(MODEL, True)
    assert isinstance(walk, CdcWalk)
    tables, index = walk.tables, int(walk.z_index[0, 0])
    symbols = np.zeros(walk.z_index.shape[1], np.int32)
    symbols[0] = tables.escapes[index]
    lengths = np.array([2 ** (23 - k) for k in range(17)] + [2**7], np.int32)
    stack = ans.AnsStack()
    stack.push(np.array([2**17 - 1], np.int32), ans.uniform(2**17))
    stack.push(np.array([17], np.int32), ans.categorical(lengths))
    stack.push(symbols, tables.models[index])
    return stack.to_bytes()


def _toml(vector: Vector) -> bytes:
    lines = [f"why = {_value(vector.why)}"]
    tables = {k: v for k, v in vector.expect.items() if isinstance(v, Mapping)}
    lines += [f"{k} = {_value(v)}" for k, v in vector.expect.items() if k not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{k} = {_value(v)}" for k, v in table.items())]
    return ("\n".join(lines) + "\n").encode()


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


if __name__ == "__main__":
    sys.exit(main())
