"""Formats that Pillow writes: JPEG, WebP, AVIF and JPEG 2000.

Settings are the strongest that are usual, so that nobody's codec is beaten by its defaults.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL
from PIL import Image, features

from cdcodec.codec import Pixels
from cdcodec.evaluation.anchors.coder import Coder, spread
from cdcodec.evaluation.contender import Compressed, Restored, Unavailable

_SUBSAMPLING = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}


class _Still(Coder):
    """What the formats have in common."""

    feature: ClassVar[str]
    library: ClassVar[str]

    def version(self) -> str:
        """Name Pillow and its library; see Coder."""
        if self.feature not in features.get_supported():
            raise Unavailable(
                f"this Pillow, {PIL.__version__}, is built without {self.library}",
                hint="install Pillow 11.3 or later from PyPI",
            )
        return f"Pillow {PIL.__version__}, {self.library} {features.version(self.feature)}"

    def decode(self, data: bytes) -> Restored:
        """Decode; see Coder."""
        start = time.perf_counter()
        with Image.open(io.BytesIO(data)) as picture:
            pixels = np.array(picture.convert("RGB"))
        return Restored(pixels, {"decode": time.perf_counter() - start})


def _save(pixels: Pixels, format: str, setting: str, **arguments: Any) -> Compressed:
    file = io.BytesIO()
    start = time.perf_counter()
    Image.fromarray(pixels).save(file, format, **arguments)
    return Compressed(file.getvalue(), setting, {"encode": time.perf_counter() - start})


@dataclass(frozen=True)
class Jpeg(_Still):
    """JPEG, progressive, with Huffman tables of its own."""

    subsampling: str = "420"

    options = {"subsampling": tuple(_SUBSAMPLING)}
    suffix = ".jpg"
    scale = range(1, 101)
    feature = "jpg"
    library = "libjpeg"

    def version(self) -> str:
        """Name the library that it really is; see Coder."""
        name = super().version()
        if "libjpeg_turbo" in features.get_supported():
            return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"
        return name

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress; see Coder."""
        quality = int(setting)
        return _save(
            pixels,
            "JPEG",
            f"quality={quality}",
            quality=quality,
            optimize=True,
            progressive=True,
            subsampling=_SUBSAMPLING[self.subsampling],
        )


@dataclass(frozen=True)
class Webp(_Still):
    """WebP, lossy.

    Its quality is a real number, of which whole ones are far apart at the low end: 0 to 1 adds 40 %
    to the file. The quantiser is linear in its cube root (QualityToCompression in libwebp's
    quant_enc.c), and so is the scale.
    """

    method: str = "6"

    options = {"method": tuple(map(str, range(7)))}
    suffix = ".webp"
    scale = tuple(float(f"{100 * (index / 512) ** 3:.4g}") for index in range(513))
    feature = "webp"
    library = "libwebp"

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress; see Coder."""
        return _save(
            pixels, "WEBP", f"quality={setting:g}", quality=setting, method=int(self.method)
        )


@dataclass(frozen=True)
class Avif(_Still):
    """AVIF.

    Speed 6 is the default of Pillow and of avifenc, so what users get. 4 makes files some 8 %
    smaller in five times the time; ask for it by `avif:speed=4`.
    """

    speed: str = "6"
    subsampling: str = "420"

    options = {"speed": tuple(map(str, range(11))), "subsampling": tuple(_SUBSAMPLING)}
    suffix = ".avif"
    scale = range(101)
    feature = "avif"
    library = "libavif"

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress in one tile, which Pillow wouldn't: tiles cost 1 %; see Coder."""
        quality = int(setting)
        return _save(
            pixels,
            "AVIF",
            f"quality={quality}",
            quality=quality,
            speed=int(self.speed),
            subsampling=_SUBSAMPLING[self.subsampling],
            autotiling=False,
        )


@dataclass(frozen=True)
class Jpeg2000(_Still):
    """JPEG 2000 with the 9/7 wavelet: the codestream alone, without OpenJPEG's signature in it.

    A .jp2 file around it takes another 85 bytes, which would count at the rates of interest.
    """

    options = {}
    suffix = ".j2k"
    scale = spread(5000, 1.2, 2048)
    feature = "jpg_2000"
    library = "OpenJPEG"

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress by a ratio, raw bytes to coded ones; see Coder."""
        made = _save(
            pixels,
            "JPEG2000",
            f"ratio={setting:g}",
            irreversible=True,
            quality_mode="rates",
            quality_layers=[setting],
            no_jp2=True,
        )
        return Compressed(_without_comments(made.data), made.setting, made.seconds)


def _without_comments(codestream: bytes) -> bytes:
    """Drop COM segments from the main header of a JPEG 2000 codestream (ISO/IEC 15444-1, A.2)."""
    start_of_tile, comment = b"\xff\x90", b"\xff\x64"
    kept, at = codestream[:2], 2  # SOC, the one marker without a length
    while (marker := codestream[at : at + 2]) != start_of_tile:
        end = at + 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
        assert marker[0] == 0xFF, "OpenJPEG wrote no main header"
        assert end <= len(codestream), "OpenJPEG wrote no tile"
        if marker != comment:
            kept += codestream[at:end]
        at = end
    return kept + codestream[at:]
