"""RGB to and from the planes that video coders take: Y'CbCr of BT.601 in full range, as in JFIF.

Done here and not by ffmpeg, so that neither its scaler's accuracy nor a flag for the range comes
between a coder and its score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdcodec.codec import Pixels
from cdcodec.errors import InputError

_TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])


def to_raw(pixels: Pixels, *, halved: bool, bits: int) -> bytes:
    """Convert [H, W, 3] to raw planes Y, Cb, Cr.

    Args:
        pixels: RGB with an even height and width.
        halved: 4:2:0, each chroma sample the mean of 2x2 pixels, and not 4:4:4.
        bits: Of a sample: 8, or up to 16, which take two bytes, little-endian.
    """
    height, width = pixels.shape[:2]
    planes = list(np.moveaxis(pixels @ _TO_YCBCR.T, -1, 0))
    if halved:
        planes[1:] = [
            plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for plane in planes[1:]
        ]
    planes[1:] = [plane + 128 for plane in planes[1:]]
    scale, most = 2 ** (bits - 8), 2**bits - 1
    kind = np.dtype(np.uint8) if bits == 8 else np.dtype("<u2")
    return b"".join(
        np.clip(np.rint(plane * scale), 0, most).astype(kind).tobytes() for plane in planes
    )


def from_y4m(data: bytes) -> Pixels:
    """Convert the first frame of a YUV4MPEG2 file, as to_raw made it, to RGB [H, W, 3].

    Raises:
        InputError: If it isn't one with 4:2:0 or 4:4:4 samples of 8 or 10 bits.
    """
    header, _, rest = data.partition(b"\n")
    frame, _, raw = rest.partition(b"\n")
    fields = {field[:1]: field[1:] for field in header.decode("ascii", "replace").split(" ")[1:]}
    kind = fields.get("C", "420")
    bits = 10 if "p10" in kind else 8
    if not (header.startswith(b"YUV4MPEG2 ") and frame.startswith(b"FRAME")):
        raise InputError("a decoder's output isn't YUV4MPEG2")
    if kind.partition("p1")[0] not in ("420", "420jpeg", "420mpeg2", "420paldv", "444"):
        raise InputError(f"a decoder's output has samples of the unknown kind {kind}")
    height, width = int(fields["H"]), int(fields["W"])
    step = 2 if kind.startswith("420") else 1
    sizes = [(height, width), *[(-(-height // step), -(-width // step))] * 2]
    return _to_rgb(_planes(raw, sizes, np.dtype(np.uint8 if bits == 8 else "<u2")), bits)


def pad(pixels: Pixels) -> tuple[Pixels, int]:
    """Replicate the last column and row of [H, W, 3] where their number is odd.

    Returns:
        The pixels, and what `crop` needs, 0..3.
    """
    bottom, right = (length % 2 for length in pixels.shape[:2])
    padded = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
    return padded, 2 * bottom + right


def crop(pixels: Pixels, padding: int) -> Pixels:
    """Undo pad."""
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(pixels[: height - padding // 2, : width - padding % 2])


def _planes(
    raw: bytes, sizes: Sequence[tuple[int, int]], kind: np.dtype[np.uint8 | np.uint16]
) -> list[NDArray[np.float64]]:
    planes, at = [], 0
    for height, width in sizes:
        if len(raw) - at < height * width * kind.itemsize:
            raise InputError("a decoder's output is cut short")
        samples = np.frombuffer(raw, kind, height * width, at)
        planes.append(samples.reshape(height, width).astype(np.float64))
        at += samples.nbytes
    return planes


def _to_rgb(planes: Sequence[NDArray[np.float64]], bits: int) -> Pixels:
    height, width = planes[0].shape
    scaled = []
    for plane in planes:
        samples = plane / 2 ** (bits - 8)
        if plane.shape != (height, width):
            image = Image.fromarray(samples.astype(np.float32))
            size = (2 * plane.shape[1], 2 * plane.shape[0])
            image = image.resize(size, Image.Resampling.BILINEAR)
            samples = np.asarray(image, dtype=np.float64)[:height, :width]
        scaled.append(samples)
    values = np.stack(scaled, -1)
    values[..., 1:] -= 128
    pixels: Pixels = np.clip(np.rint(values @ _TO_RGB.T), 0, 255).astype(np.uint8)
    return pixels
