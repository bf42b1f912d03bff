"""Image files and Pillow images in, one plain `Picture` out, and back again.

What differs between picture files (modes, depths, palettes, orientation, profiles) is settled
here, so that the rest of the package sees 8-bit RGB and, at most, an alpha plane.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from cdcodec.errors import BitstreamError, InputError

Pixels: TypeAlias = NDArray[np.uint8]
Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image"

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs, and the format's
MAX_SIDE = 65_535  # pixels; what a header can hold

# Pillow would also open EPS, which starts Ghostscript, and icons, whose size is known only after
# decoding. AVIF comes last: a Pillow built without it stops there.
READABLE = ("PNG", "JPEG", "WEBP", "GIF", "PPM", "BMP", "TIFF", "QOI", "JPEG2000", "AVIF")

EXTENSIONS = {
    ".png": "png",
    ".webp": "webp",
    ".ppm": "ppm",
    ".pgm": "ppm",
    ".pnm": "ppm",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
}
"""File name suffixes and the format that `save` takes for each."""
PICTURE_SUFFIXES = EXTENSIONS.keys() | {
    *(".apng", ".gif", ".jfif", ".jpe", ".jp2", ".j2c", ".j2k", ".jpc", ".jpf", ".jpx"),
    *(".avif", ".avifs", ".dib", ".pbm", ".pfm", ".pam", ".qoi"),
    *(".jxl", ".heic", ".heif", ".tga", ".psd", ".ico", ".svg", ".exr", ".hdr", ".dng"),
}
"""Suffixes of pictures, readable or not, which no compressed file of ours may have."""
WRITABLE = ("png", "webp", "ppm", "jpeg", "tiff", "bmp")
_FORMAT_NAMES = {"WEBP": "WebP", "JPEG2000": "JPEG 2000", "MPO": "JPEG"}  # others are as Pillow's
_HOLD_ALPHA = ("png", "webp", "tiff")

_EXIF_PREFIX = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_XMP_TAG = 700
# TIFF keeps its layout (strips, compression) among the same tags; these describe the photograph.
_DESCRIPTIVE_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_XMP_ORIENTATION = re.compile(
    rb'\s*tiff:Orientation="[0-9]"|<tiff:Orientation>[0-9]</tiff:Orientation>'
)


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image: 8-bit samples, upright, with what must travel along.

    Attributes:
        pixels: [H, W, 3], R, G, B in 0..255; three equal planes when `grey`.
        grey: The image has no colour and comes back without.
        alpha: [H, W], 0 transparent to 255 opaque; None when opaque everywhere. Colours under
            transparent pixels are kept as they were.
        icc: Colour profile that fits `pixels` (RGB, or GRAY when `grey`).
        exif: TIFF block without the "Exif" prefix and without an orientation.
        xmp: XMP packet without an orientation.
        notes: What was changed while reading, in words for the user.
    """

    pixels: Pixels
    grey: bool = False
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])


def load(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    refused: Mapping[bytes, str] = MappingProxyType({}),
) -> Picture:
    """Read an image from a path, bytes, a stream or a Pillow image, and turn it upright.

    Grey samples of 16 bits are rounded to 8; of 16-bit colour Pillow hands over the high byte only.

    Args:
        source: Streams are read from where they stand to their end. A Pillow image gives its
            current frame.
        max_pixels: Larger images are refused before their pixels are decoded.
        refused: First bytes of known files that are no images, and the reason to refuse each.

    Raises:
        InputError: The source is missing, not an image, damaged, too large or of an unknown mode.
    """
    name = name_of(source)
    try:
        # Pillow warns about bombs, corrupt metadata and palettes; all of that is settled here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(source, refused) as img:
                return _read(img, max_pixels)
    except InputError as error:
        raise InputError(f"cannot read {name}: {error}", hint=error.hint) from error.__cause__
    except UnidentifiedImageError as error:
        raise InputError(
            f"cannot read {name}: not an image of a known format",
            hint="readable are " + ", ".join(READABLE),
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"cannot read {name}: it has too many pixels") from error
    except MemoryError as error:
        raise InputError(f"cannot read {name}: not enough memory") from error
    # Pillow's plugins let through whatever a damaged file provokes, struct.error or SyntaxError.
    except Exception as error:
        raise InputError(f"cannot read {name}: {_reason(error)}") from error


def format_of(data: bytes) -> str | None:
    """Return the name of a picture's format, by the file's header; None if it is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=READABLE) as img:
                return _FORMAT_NAMES.get(str(img.format), img.format)
    except Exception:  # whatever a damaged file provokes, see load
        return None


def to_srgb(picture: Picture) -> Picture:
    """Convert the pixels to sRGB by the picture's profile, and drop the profile.

    A profile that cannot be used is dropped with a note.
    """
    if picture.icc is None:
        return picture
    try:
        if picture.grey:
            levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
            pixels = np.array(_apply_profile(levels, picture.icc))[0, :, 1][picture.pixels]
        else:
            pixels = np.array(_apply_profile(_plain_image(picture), picture.icc))
    except (ImageCms.PyCMSError, OSError, ImportError):
        note = "colour profile could not be applied: pixels taken as sRGB"
        return replace(picture, icc=None, notes=(*picture.notes, note))
    return replace(picture, pixels=pixels, icc=None)


def to_image(picture: Picture) -> Image.Image:
    """Make a Pillow image, L, LA, RGB or RGBA, with the metadata in its `info`."""
    img = _plain_image(picture)
    if picture.alpha is not None:
        img.putalpha(Image.fromarray(picture.alpha))
    if picture.icc is not None:
        img.info["icc_profile"] = picture.icc
    if picture.exif is not None:
        img.info["exif"] = _EXIF_PREFIX + picture.exif
    if picture.xmp is not None:
        img.info["xmp"] = picture.xmp
    return img


def save(picture: Picture, fp: BinaryIO, format: str) -> None:
    """Write `picture` to `fp`, losslessly unless `format` is jpeg.

    PPM and BMP hold no metadata; it is left out there.

    Args:
        picture: What to write.
        fp: Gets the whole file in one write, so that it need not be seekable.
        format: One of `WRITABLE`.

    Raises:
        InputError: The format is unknown, or cannot hold the alpha plane, the size or the metadata.
    """
    if format not in WRITABLE:
        near = difflib.get_close_matches(format, WRITABLE, 1)
        hint = f"did you mean {near[0]}?" if near else "writable are " + ", ".join(WRITABLE)
        raise InputError(f"unknown image format {format!r}", hint=hint)
    if picture.alpha is not None and format not in _HOLD_ALPHA:
        raise InputError(
            f"{format} cannot hold the alpha plane", hint="write " + " or ".join(_HOLD_ALPHA)
        )
    img = to_image(picture)
    img.info.clear()  # Pillow takes some options from here and not others: pass all of them
    buffer = io.BytesIO()
    try:
        options = _save_options(picture, format)
        img.save(buffer, format, **options)
    # Encoders fail on their limits in any way they like (OSError, ValueError, struct.error).
    except Exception as error:
        raise InputError(
            f"cannot write this image as {format}: {_reason(error)}", hint="write png"
        ) from error
    fp.write(buffer.getbuffer())


def pad(pixels: Pixels, stride: int) -> Pixels:
    """Replicate-pad `pixels` [H, W, ...] at the bottom and right to multiples of `stride`."""
    height, width = pixels.shape[:2]
    margins = [(0, -height % stride), (0, -width % stride)] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(pixels, margins, mode="edge")


class AlphaMode(IntEnum):
    """First byte of an alpha payload: how the bytes after it make the plane.

    All but CONSTANT are followed by a zlib stream. Differences are modulo 256; samples outside the
    plane count as 0.
    """

    CONSTANT = 0  # one byte, the value of every sample
    PLAIN = 1  # H*W samples, row by row
    LEFT = 2  # H*W differences from the sample to the left
    UP = 3  # H*W differences from the sample above
    GRADIENT = 4  # H*W differences from left + above - above left
    MASK = 5  # only 0 and 255: H rows of ceil(W/8) bytes, first sample in bit 7, xor the row above


def encode_alpha(alpha: Pixels) -> bytes:
    """Pack `alpha` [H, W] losslessly, in the mode that comes out smallest."""
    first = alpha[0, 0]
    if bool((alpha == first).all()):
        return bytes([AlphaMode.CONSTANT, int(first)])
    if bool(((alpha == 0) | (alpha == 255)).all()):
        modes: tuple[AlphaMode, ...] = (AlphaMode.MASK, AlphaMode.UP)
    else:
        modes = (AlphaMode.PLAIN, AlphaMode.LEFT, AlphaMode.UP, AlphaMode.GRADIENT)
    # The order hardly depends on the level, and level 9 is slow on smooth planes.
    best = min(modes, key=lambda mode: len(zlib.compress(_alpha_residual(alpha, mode), 1)))
    return bytes([best]) + zlib.compress(_alpha_residual(alpha, best), 9)


def decode_alpha(payload: bytes, width: int, height: int) -> Pixels:
    """Unpack what `encode_alpha` made, to [height, width]; never inflates beyond that size.

    Raises:
        BitstreamError: The payload is damaged, or of another size.
    """
    if not payload or payload[0] not in tuple(AlphaMode):
        raise BitstreamError("alpha plane is in an unknown mode")
    mode, body = AlphaMode(payload[0]), payload[1:]
    if mode is AlphaMode.CONSTANT:
        if len(body) != 1:
            raise BitstreamError(f"constant alpha plane holds {len(body)} bytes instead of 1")
        return np.full((height, width), body[0], np.uint8)
    row_bytes = (width + 7) // 8 if mode is AlphaMode.MASK else width
    data = _inflate_exactly(body, height * row_bytes)
    plane = np.frombuffer(data, np.uint8).reshape(height, row_bytes)
    if mode is AlphaMode.MASK:
        bits = np.bitwise_xor.accumulate(plane, axis=0)
        return np.unpackbits(bits, axis=1, count=width) * np.uint8(255)
    if mode in (AlphaMode.LEFT, AlphaMode.GRADIENT):
        plane = np.cumsum(plane, axis=1, dtype=np.uint8)
    if mode in (AlphaMode.UP, AlphaMode.GRADIENT):
        plane = np.cumsum(plane, axis=0, dtype=np.uint8)
    return plane.copy() if mode is AlphaMode.PLAIN else plane


def _alpha_residual(alpha: Pixels, mode: AlphaMode) -> bytes:
    plane = alpha
    if mode is AlphaMode.MASK:
        plane = np.packbits(alpha, axis=1)
        plane[1:] ^= plane[:-1].copy()
    if mode in (AlphaMode.LEFT, AlphaMode.GRADIENT):
        plane = np.diff(plane, axis=1, prepend=np.uint8(0))
    if mode in (AlphaMode.UP, AlphaMode.GRADIENT):
        plane = np.diff(plane, axis=0, prepend=np.uint8(0))
    return plane.tobytes()


def _inflate_exactly(stream: bytes, size_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stream, size_bytes + 1)
    except zlib.error as error:
        raise BitstreamError("alpha plane is damaged") from error
    if len(data) != size_bytes or not inflater.eof or inflater.unused_data:
        raise BitstreamError(f"alpha plane does not inflate to its {size_bytes} bytes")
    return data


def name_of(source: Source) -> str:
    """Return the name of a source in messages."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return name if isinstance(name, str) else "the image"


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    first = str(text).splitlines()[0].rstrip(".")
    return first[:1].lower() + first[1:]


@contextmanager
def _opened(source: Source, refused: Mapping[bytes, str]) -> Iterator[Image.Image]:
    """Open `source`, header only; a Pillow image stays its owner's to close."""
    if isinstance(source, Image.Image):
        yield source
        return
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            raise InputError("it is a directory")
        stream: BinaryIO = path.open("rb")
        if not stream.seekable():
            with stream:
                stream = io.BytesIO(stream.read())
    else:
        stream = io.BytesIO(source if isinstance(source, bytes) else source.read())
    with stream:
        start = stream.read(max([1, *map(len, refused)]))
        if not start:
            raise InputError("it is empty")
        for beginning, reason in refused.items():
            if start.startswith(beginning):
                raise InputError(reason)
        stream.seek(0)
        with Image.open(stream, formats=READABLE) as img:
            yield img


def _read(img: Image.Image, max_pixels: int) -> Picture:
    width, height = img.size
    if width < 1 or height < 1:
        raise InputError("it has no pixels")
    if max(width, height) > MAX_SIDE:
        raise InputError(f"{width}x{height} is more than {MAX_SIDE:,} pixels a side")
    if width * height > max_pixels:
        raise InputError(
            f"{width}x{height} is {width * height:,} pixels, more than the limit of {max_pixels:,}"
        )
    notes = []
    if getattr(img, "is_animated", False) and img.tell() == 0:
        notes.append("several frames or pages: only the first is taken")
    rawmode = _rawmode(img)  # gone after loading
    img.load()
    orientation, exif, xmp = _metadata(img, notes)
    pixels, alpha, icc = _samples(img, rawmode, notes)
    if alpha is not None and bool((alpha == 255).all()):
        alpha = None
    grey = pixels.ndim == 2
    if grey:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if icc is not None and not _profile_fits(icc, grey):
        notes.append("colour profile dropped: it does not fit the image")
        icc = None
    return Picture(
        pixels=_upright(pixels, orientation),
        grey=grey,
        alpha=None if alpha is None else _upright(alpha, orientation),
        icc=icc,
        exif=exif,
        xmp=xmp,
        notes=tuple(notes),
    )


def _rawmode(img: Image.Image) -> str:
    """Return how the samples lie in the file, e.g. "RGB;16B", as far as Pillow says."""
    for tile in getattr(img, "tile", None) or ():
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if tile[0].startswith("ppm") and args[1] > 255:
            return f"{args[0]};16"
        if args and isinstance(args[0], str):
            return args[0]
    return ""


def _samples(
    img: Image.Image, rawmode: str, notes: list[str]
) -> tuple[Pixels, Pixels | None, bytes | None]:
    """Return pixels [H, W, 3], or [H, W] of a grey image, alpha, and the profile of the pixels."""
    icc: bytes | None = img.info.get("icc_profile") or None
    key: Any = img.info.get("transparency")
    if ";16" in rawmode or img.mode.startswith("I"):
        notes.append("16 bits a sample reduced to 8")
    if img.mode.startswith("I"):
        wide = np.asarray(img)
        if wide.min() < 0 or wide.max() > 65_535:
            raise InputError("its samples have more than 16 bits")
        grey = ((wide.astype(np.int32) + 128) // 257).astype(np.uint8)  # round(v * 255 / 65535)
        return grey, _keyed_alpha(wide, key), icc
    if img.mode in ("1", "L"):
        grey = np.array(img.convert("L"))
        if isinstance(key, int):  # counts in the file's samples, which Pillow has spread to 0..255
            key *= {"L;2": 85, "L;4": 17}.get(rawmode, 1)
        return grey, _keyed_alpha(grey, key), icc
    if img.mode in ("LA", "La") or rawmode.startswith("LA;"):
        both = np.array(img.convert("LA"))
        return both[..., 0].copy(), both[..., 1].copy(), icc
    if img.mode in ("RGBA", "RGBa", "PA") or (img.mode == "P" and key is not None):
        both = np.array(img.convert("RGBA"))
        return both[..., :3].copy(), both[..., 3].copy(), icc
    if img.mode == "RGB":
        rgb = np.array(img)
        if ";16" in rawmode and isinstance(key, tuple):
            key = tuple(value >> 8 for value in key)
        return rgb, _keyed_alpha(rgb, key), icc
    if img.mode in ("P", "RGBX", "YCbCr", "HSV"):
        return np.array(img.convert("RGB")), None, icc
    if img.mode == "CMYK":
        notes.append("CMYK converted to sRGB")
        return _from_cmyk(img, icc, notes), None, None
    if img.mode == "LAB":
        notes.append("Lab converted to sRGB")
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return np.array(_apply_profile(img, lab.tobytes())), None, None
    hint = "convert it to 8 or 16 bits a sample first"
    raise InputError(f"images of mode {img.mode} are not supported", hint=hint)


def _keyed_alpha(samples: NDArray[Any], key: object) -> Pixels | None:
    """Make alpha out of a transparent colour (PNG tRNS), which is one value or one per channel."""
    if not isinstance(key, (int, tuple)):
        return None
    equal = samples == np.asarray(key)
    if equal.ndim == 3:
        equal = equal.all(axis=2)
    return np.where(equal, 0, 255).astype(np.uint8)


def _from_cmyk(img: Image.Image, icc: bytes | None, notes: list[str]) -> Pixels:
    if icc is not None:
        try:
            return np.array(_apply_profile(img, icc))
        except (ImageCms.PyCMSError, OSError, ImportError):
            notes.append("colour profile could not be applied")
    return np.array(img.convert("RGB"))


def _apply_profile(img: Image.Image, icc: bytes) -> Image.Image:
    """Convert `img` to sRGB: relative colorimetric, black to black."""
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if img.mode == "L":  # where the shortcut of lcms is up to 10 levels off in the dark
        flags |= ImageCms.Flags.NOOPTIMIZE
    converted = ImageCms.profileToProfile(
        img,
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=flags,
    )
    assert converted is not None  # None only when converting in place
    return converted


def _profile_fits(icc: bytes, grey: bool) -> bool:
    # ICC.1:2022, 7.2: the data colour space is at 16..19, the signature "acsp" at 36..39.
    return icc[36:40] == b"acsp" and icc[16:20] == (b"GRAY" if grey else b"RGB ")


def _metadata(img: Image.Image, notes: list[str]) -> tuple[int, bytes | None, bytes | None]:
    """Return orientation 1..8, and EXIF and XMP without it."""
    xmp = img.info.get("xmp") or img.info.get("XML:com.adobe.xmp") or None
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if xmp is not None:
        xmp = _XMP_ORIENTATION.sub(b"", xmp)
    try:
        tags = img.getexif()
        orientation = tags.get(_ORIENTATION, 1)
        exif = _exif_block(img)
        if img.format == "TIFF" and len(kept := _descriptive(tags)):
            exif = kept.tobytes()[len(_EXIF_PREFIX) :]
        if exif is not None:
            exif = _without_orientation(exif)
    # A photograph with broken metadata is still a photograph.
    except Exception:
        notes.append("EXIF dropped: it is damaged")
        return 1, None, xmp
    return orientation if orientation in range(1, 9) else 1, exif, xmp


def _exif_block(img: Image.Image) -> bytes | None:
    exif = img.info.get("exif")
    if exif is None and "Raw profile type exif" in img.info:  # PNG before it had an eXIf chunk
        exif = bytes.fromhex("".join(img.info["Raw profile type exif"].split("\n")[3:]))
    while exif and exif.startswith(_EXIF_PREFIX):
        exif = exif[len(_EXIF_PREFIX) :]
    return exif or None


def _descriptive(tags: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in tags:
            kept[tag] = tags[tag]
    for tag in (_EXIF_IFD, _GPS_IFD):
        if directory := tags.get_ifd(tag):
            kept[tag] = directory
    return kept


def _without_orientation(exif: bytes) -> bytes | None:
    """Take the orientation out of a TIFF block, and leave every other byte where its offset says.

    Writing the block anew would break the maker notes, which point into it by offsets that nobody
    knows. So the entries after it, with the pointer to the next directory, move up by one entry of
    12 bytes, and 12 unused bytes stay behind.

    Returns:
        None when the orientation was all there was.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}[exif[:4]]
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, start)
    entries = start + 2
    for at in range(entries, entries + 12 * count, 12):
        (tag,) = struct.unpack_from(order + "H", exif, at)
        if tag != _ORIENTATION:
            continue
        end = entries + 12 * count + 4
        if count == 1 and not any(exif[end - 4 : end]):
            return None
        fewer = struct.pack(order + "H", count - 1)
        moved = exif[entries:at] + exif[at + 12 : end] + bytes(12)
        return exif[:start] + fewer + moved + exif[end:]
    return exif


def _upright(samples: Pixels, orientation: int) -> Pixels:
    """Turn `samples` [H, W, ...] as an EXIF orientation of 1..8 asks."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return np.ascontiguousarray(samples)


def _plain_image(picture: Picture) -> Image.Image:
    img = Image.fromarray(picture.pixels)
    return img.convert("L") if picture.grey else img


def _save_options(picture: Picture, format: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if format in ("png", "webp", "jpeg", "tiff"):
        if picture.icc is not None:
            options["icc_profile"] = picture.icc
        if picture.exif is not None and format != "tiff":
            options["exif"] = _EXIF_PREFIX + picture.exif
    if format in ("webp", "jpeg") and picture.xmp is not None:
        options["xmp"] = picture.xmp
    if format == "png" and picture.xmp is not None:
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    if format == "tiff":
        # Uncompressed: through libtiff, Pillow cannot write the directories of EXIF and GPS.
        tags = Image.Exif()
        if picture.exif is not None:
            tags.load(_EXIF_PREFIX + picture.exif)
        # The image's own layout would be overwritten by tags of the original, such as its width.
        tags = _descriptive(tags)
        if picture.xmp is not None:
            tags[_XMP_TAG] = picture.xmp
        if len(tags):
            options["exif"] = tags.tobytes()
    if format == "webp":
        options |= {"lossless": True, "exact": True}  # exact: colours under alpha 0 stay
    if format == "jpeg":
        options |= {"quality": 95, "subsampling": 0}
    return options
