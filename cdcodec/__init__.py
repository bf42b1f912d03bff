"""Image compression at extremely low bitrates with diffusion decoders.

    data = cdcodec.encode("photo.jpg", bpp=0.05)
    image = cdcodec.decode(data, steps=5)
    print(cdcodec.info(data).bpp)

cdcodec.api has the same functions with reports of what happened. Importing the package imports
neither torch nor Pillow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdcodec.errors import CdcError

if TYPE_CHECKING:
    from PIL import Image

    from cdcodec.api import FileInfo, FileSource, ImageSource

__version__ = "0.1.0"
__all__ = ["CdcError", "__version__", "decode", "encode", "info"]


def encode(
    image: ImageSource,
    *,
    bpp: float | None = None,
    size: int | None = None,
    quality: float | None = None,
    model: str = "cdc-nano",
    steps: int | None = None,
    metadata: str = "icc",
    device: str = "auto",
) -> bytes:
    """Compress an image to a file's bytes; see cdcodec.api.encode for the arguments.

    Raises:
        CdcError: If the image can't be read or the target can't be met.
    """
    from cdcodec import api

    return api.encode(
        image,
        bpp=bpp,
        size=size,
        quality=quality,
        model=model,
        steps=steps,
        metadata=metadata,
        device=device,
    ).data


def decode(
    data: FileSource,
    *,
    steps: int | None = None,
    decoder: str | None = None,
    seed: int = 0,
    stochasticity: float | None = None,
    model: str | None = None,
    device: str = "auto",
) -> Image.Image:
    """Decode a compressed file to an image; see cdcodec.codec.Decoding for the arguments.

    `model` is a weight set, or the path of a weight file; by default the set that the file names.

    Raises:
        CdcError: If the file is damaged or can't be decoded here.
    """
    from cdcodec import api
    from cdcodec.codec import Decoding

    decoding = Decoding(
        steps=steps, decoder=decoder, seed=seed, stochasticity=stochasticity, device=device
    )
    return api.decode(data, decoding, model=model).image


def info(data: FileSource, *, verify: bool = False, model: str | None = None) -> FileInfo:
    """Describe a compressed file; with verify, run its entropy decoder too, that of `model`.

    Raises:
        CdcError: If the file is damaged.
    """
    from cdcodec import api

    return api.info(data, verify=verify, model=model)
