"""Pictures that other codecs decoded, made to look more natural by the decoders of ours."""

from __future__ import annotations

from dataclasses import replace

from cdcodec import families, models
from cdcodec.api import Decoded, ImageSource, Stopwatch, load_picture, resolve
from cdcodec.bitstream import container as box
from cdcodec.codec import Decoding, Enhancing, Progress
from cdcodec.errors import InputError

DEFAULT_MODEL = "cgdm-nano"


def enhance(
    source: ImageSource,
    decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
    *,
    model: str = DEFAULT_MODEL,
    description: bytes = b"",
    max_pixels: int = box.MAX_PIXELS,
    offline: bool = False,
    progress: Progress | None = None,
) -> Decoded:
    """Make what another codec decoded look more natural; texture that is added is invented.

    Args:
        source: A JPEG, WebP, AVIF, ...: a path, a file's bytes, an open file or a Pillow image.
        decoding: As in decode.
        model: A weight set, or the path of a weight file, whose decoder can work on any picture.
        description: What describe said of the original; empty if there is none.
        max_pixels: Larger images are refused.
        offline: Never fetch weights.
        progress: Called after every denoising step.

    Raises:
        InputError: If the image can't be read, or the model can't do it.
        BitstreamError: If the description isn't one, or is for another model.
        WeightsError: If the weights can't be had.
    """
    watch = Stopwatch()
    picture = load_picture(source, max_pixels)
    watch.lap("read")
    codec = _enhancer(model, decoding.device, offline)
    decoding = resolve(decoding, codec.decoders, next(iter(codec.decoders.values())).steps)
    watch.lap("load")
    pixels = codec.enhance(picture.pixels, description, decoding, progress)
    watch.lap("synthesise")
    assert decoding.steps is not None
    assert decoding.decoder is not None
    return Decoded(
        picture=replace(picture, pixels=pixels),
        model=model,
        family=models.choose(model).family,
        decoder=decoding.decoder,
        steps=decoding.steps,
        seed=decoding.seed,
        device=str(codec.device),
        seconds=watch.seconds,
    )


def describe(
    reference: ImageSource,
    source: ImageSource,
    *,
    model: str = DEFAULT_MODEL,
    tune: int = 0,
    device: str = "auto",
    max_pixels: int = box.MAX_PIXELS,
    offline: bool = False,
    progress: Progress | None = None,
) -> bytes:
    """Return a few bytes that tell `enhance` what an original has and its decoded picture lacks.

    Args:
        reference: The original.
        source: The decoded picture, of the same size.
        model: As in enhance.
        tune: Iterations to spend on it.
        device: Where the networks run.
        max_pixels: Larger images are refused.
        offline: Never fetch weights.
        progress: Called after every iteration.

    Raises:
        InputError: If an image can't be read, sizes differ, or the model can't do it.
        WeightsError: If the weights can't be had.
    """
    original, decoded = (load_picture(each, max_pixels) for each in (reference, source))
    if original.pixels.shape != decoded.pixels.shape:
        sizes = (f"{each.pixels.shape[1]}x{each.pixels.shape[0]}" for each in (original, decoded))
        raise InputError("the reference has {} pixels, the picture {}".format(*sizes))
    codec = _enhancer(model, device, offline)
    return codec.describe_picture(original.pixels, decoded.pixels, tune, progress)


def _enhancer(model: str, device: str, offline: bool) -> Enhancing:
    codec = families.load_codec(models.choose(model), device, offline)
    if not isinstance(codec, Enhancing):
        raise InputError(f"{model} can't enhance pictures", hint=f"{DEFAULT_MODEL} can")
    return codec
