"""Formats that programs on PATH write: JPEG XL, HEVC intra and VVC intra."""

from __future__ import annotations

import io
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation.anchors import ycbcr
from cdcodec.evaluation.anchors.coder import Coder, spread
from cdcodec.evaluation.anchors.processes import Ran, find, run, version
from cdcodec.evaluation.contender import Compressed, Restored, Unavailable


def _compressed(data: bytes, setting: str, ran: Ran) -> Compressed:
    return Compressed(data, setting, {"encode": ran.seconds}, ran.peak_bytes)


def _restored(pixels: Pixels, ran: Ran) -> Restored:
    return Restored(pixels, {"decode": ran.seconds}, ran.peak_bytes)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cdcodec-")


@dataclass(frozen=True)
class JpegXl(Coder):
    """JPEG XL by libjxl: the codestream alone, without a container.

    Effort 9 scores no higher than cjxl's default, 7, at 0.2 bpp, but its smallest file is a fifth
    smaller: with 7 few photographs reach 0.1 bpp.
    """

    effort: str = "9"
    resampling: str = "auto"

    options = {
        "effort": tuple(map(str, range(1, 10))),
        "resampling": ("auto", "1", "2", "4", "8"),
    }
    suffix = ".jxl"
    scale = spread(25, 0.05, 1024)  # distances; cjxl takes none above

    def version(self) -> str:
        """Name the programs; see Coder."""
        return f"{version('cjxl')}, {version('djxl')}"

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress at a distance; see Coder."""
        with _folder() as name:
            source, target = Path(name, "source.ppm"), Path(name, "target.jxl")
            Image.fromarray(pixels).save(source)
            command: list[str | Path] = ["cjxl", source, target, "--quiet", "--container=0"]
            command += ["-d", f"{setting:g}", "-e", self.effort]
            if self.resampling != "auto":
                command.append(f"--resampling={self.resampling}")
            ran = run(command)
            return _compressed(target.read_bytes(), f"distance={setting:g}", ran)

    def decode(self, data: bytes) -> Restored:
        """Decode; see Coder."""
        with _folder() as name:
            source, target = Path(name, "source.jxl"), Path(name, "target.ppm")
            source.write_bytes(data)
            ran = run(["djxl", source, target])
            with Image.open(io.BytesIO(target.read_bytes())) as picture:
                return _restored(np.array(picture.convert("RGB")), ran)


class _Video(Coder):
    """Video coders, one frame: a byte stream of NAL units.

    Such a stream holds even sizes only (in 4:2:0), but may end in zero bytes, which decoders skip
    (trailing_zero_8bits, annex B of ITU-T H.265 and H.266) and no NAL unit ends in. Their number,
    0..3, says which of the last column and row are to be cropped.
    """

    @staticmethod
    def _finish(stream: bytes, padding: int) -> bytes:
        return stream.rstrip(b"\0") + bytes(padding)

    @staticmethod
    def _pixels(y4m: bytes, stream: bytes) -> Pixels:
        padding = len(stream) - len(stream.rstrip(b"\0"))
        return ycbcr.crop(ycbcr.from_y4m(y4m), padding)


_PRESETS = "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()


@dataclass(frozen=True)
class Hevc(_Video):
    """HEVC intra by x265 in ffmpeg, set up as bpgenc does: tuned for SSIM, BT.601 in full range.

    4:4:4 of 8 bits is how papers run BPG. What counts is the raw stream with its parameter sets,
    without x265's SEI; BPG's own header is some 60 bytes shorter.

    x265 rounds a frame's quantiser to whole steps of 17 % of the file, but adds the offsets of its
    adaptive quantisation, and of a region of interest, to each block before it rounds. So the
    fraction of a crf goes in as the offset of a region that is the whole frame.
    """

    chroma: str = "444"
    bits: str = "8"
    preset: str = "veryslow"

    options = {"chroma": ("420", "444"), "bits": ("8", "10"), "preset": tuple(_PRESETS)}
    suffix = ".hevc"
    scale = tuple(index / 20 for index in range(51 * 20, -1, -1))

    def version(self) -> str:
        """Name ffmpeg and x265; see Coder."""
        find("ffmpeg")
        black = np.zeros((64, 64, 3), np.uint8)
        try:
            with _folder() as name:
                output = self._run(Path(name), black, 30.0, "info").output
        except InputError as error:
            raise Unavailable("ffmpeg here has no libx265", hint=error.message) from error
        x265 = re.search(r"HEVC encoder version (\S+)", output)
        ffmpeg = version("ffmpeg", "-version").replace(" version", "")
        return f"{ffmpeg}, x265 {x265[1] if x265 else 'of unknown version'}"

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress at a crf; see Coder."""
        padded, padding = ycbcr.pad(pixels)
        with _folder() as name:
            ran = self._run(Path(name), padded, setting, "error")
            stream = self._finish(Path(name, "target.hevc").read_bytes(), padding)
        return _compressed(stream, f"crf={setting:g}", ran)

    def decode(self, data: bytes) -> Restored:
        """Decode; see Coder."""
        with _folder() as name:
            source, target = Path(name, "source.hevc"), Path(name, "target.y4m")
            source.write_bytes(data)
            command: list[str | Path] = ["ffmpeg", "-nostdin", "-loglevel", "error"]
            # -strict lets y4m have 10 bits.
            command += ["-f", "hevc", "-i", source, "-strict", "-1", "-f", "yuv4mpegpipe", target]
            ran = run(command)
            return _restored(self._pixels(target.read_bytes(), data), ran)

    def _run(self, folder: Path, pixels: Pixels, crf: float, level: str) -> Ran:
        bits, whole = int(self.bits), math.ceil(crf)
        source = folder / "source.yuv"
        source.write_bytes(ycbcr.to_raw(pixels, halved=self.chroma == "420", bits=bits))
        kind = f"yuv{self.chroma}p" + ("10le" if bits == 10 else "")
        # ffmpeg counts offsets in parts of the range of quantisers (libavcodec/libx265.c).
        offset = (crf - whole) / (51 + 6 * (bits - 8))
        command = ["ffmpeg", "-nostdin", "-loglevel", "error"]
        command += ["-f", "rawvideo", "-pix_fmt", kind, "-s", _size(pixels), "-i", str(source)]
        command += ["-vf", f"addroi=x=0:y=0:w=iw:h=ih:qoffset={offset:.6f}", "-frames:v", "1"]
        command += ["-c:v", "libx265", "-preset", self.preset, "-tune", "ssim", "-crf", str(whole)]
        command += ["-x265-params", _joined({**_X265, "log-level": level})]
        return run([*command, "-f", "hevc", str(folder / "target.hevc")])


_X265 = {
    "keyint": "1",
    "aq-mode": "2",  # of the tuning; the fastest presets would have none
    "aq-strength": "1",
    "info": "0",
    "vui-timing-info": "0",
    "vui-hrd-info": "0",
    "range": "full",
    "colormatrix": "smpte170m",
    "chromaloc": "1",
}


@dataclass(frozen=True)
class Vvc(_Video):
    """VVC intra by VVenC and VVdeC, which know 4:2:0 only, with 10 bits, as is usual.

    Its quantiser has whole steps of some 11 % of the file. What counts is the raw stream, which
    says nothing of colours.
    """

    preset: str = "slower"

    options = {"preset": ("faster", "fast", "medium", "slow", "slower")}
    suffix = ".266"
    scale = range(63, -1, -1)

    def version(self) -> str:
        """Name the programs; see Coder."""
        return f"{version('vvencapp')}, {version('vvdecapp')}"

    def encode(self, pixels: Pixels, setting: float) -> Compressed:
        """Compress at a QP; see Coder."""
        padded, padding = ycbcr.pad(pixels)
        with _folder() as name:
            source, target = Path(name, "source.yuv"), Path(name, "target.266")
            source.write_bytes(ycbcr.to_raw(padded, halved=True, bits=10))
            command: list[str | Path] = ["vvencapp", "-i", source, "-s", _size(padded)]
            command += ["-c", "yuv420_10", "-r", "30", "--frames", "1", "--preset", self.preset]
            command += ["--qp", str(int(setting)), "-o", target]
            ran = run(command)
            return _compressed(
                self._finish(target.read_bytes(), padding), f"qp={int(setting)}", ran
            )

    def decode(self, data: bytes) -> Restored:
        """Decode; see Coder."""
        with _folder() as name:
            source, target = Path(name, "source.266"), Path(name, "target.y4m")
            source.write_bytes(data)
            ran = run(["vvdecapp", "-b", source, "-o", target])
            return _restored(self._pixels(target.read_bytes(), data), ran)


def _size(pixels: Pixels) -> str:
    height, width = pixels.shape[:2]
    return f"{width}x{height}"


def _joined(parameters: Mapping[str, str]) -> str:
    return ":".join(f"{key}={value}" for key, value in parameters.items())
