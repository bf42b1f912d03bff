"""The data flow between images and files; the whole of it fits this page.

image ──load───► pixels ─analyse, quantise─► latents ─walk(Writer)─► chunk ─► container ─► bytes
image ◄─Picture─ pixels ◄───synthesise────── latents ◄─walk(Reader)─ chunk ◄─ container ◄─ bytes
                    └──────describe──► more latents ─walk.pack─► chunks of side information ─┘

Chunks of side information are unpacked before the walk reads.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from cdcodec import families, image, models, weights
from cdcodec.bitstream import container as box
from cdcodec.bitstream.container import Chunk, ChunkType, Container, Header
from cdcodec.codec import (
    DecoderInfo,
    Decoding,
    Describing,
    Latents,
    Progress,
    SideWalk,
    Walk,
)
from cdcodec.draft import Draft, Drafter, Fit
from cdcodec.entropy.coder import Reader
from cdcodec.errors import BitstreamError, InputError, OptionError, OutOfReach, WeightsError

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_MODEL = "cdc-nano"
DEFAULT_BPP = 0.1
METADATA = ("none", "icc", "all")
SIDE = (ChunkType.CLUT, ChunkType.SYNTAX)
"""Chunks of side information."""

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image"
FileSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"

COMPRESSED = "it is a compressed file already; cdcodec decode makes a picture of it"
"""Why a compressed file is refused in place of a picture."""


@dataclass(frozen=True)
class Encoded:
    """A compressed file and how it came about.

    Attributes:
        data: The file.
        width: Of the image, in pixels; height likewise.
        target_bpp: What was asked for, or None where quality was.
        point: Rate point that was chosen.
        bits: Information content per latent name.
        seconds: Wall time per stage.
        notes: What a user should know, one line each.
    """

    data: bytes
    width: int
    height: int
    model: str
    family: str
    point: int
    target_bpp: float | None
    bits: Mapping[str, float]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file."""
        return 8 * len(self.data) / (self.width * self.height)


@dataclass(frozen=True)
class Decoded:
    """A decoded image and how it came about; see Encoded."""

    picture: image.Picture
    model: str
    family: str
    decoder: str
    steps: int
    seed: int
    device: str
    seconds: Mapping[str, float]

    @property
    def image(self) -> Image.Image:
        """The image for Pillow, with its metadata."""
        return image.to_image(self.picture)


@dataclass(frozen=True)
class FileInfo:
    """What a file says of itself, and with `verify` what its entropy decoder says.

    Attributes:
        chunks: (name, bytes) of every chunk in order.
        overhead_bytes: Bytes that are in no chunk's payload.
        symbols_sha256: Over all symbols, equal on every machine; None unless verified.
        bits: Information content per latent name; empty unless verified.
        decoders: The decoders that `--decoder` may name, the default first; empty if the file's
            weights are unknown.
    """

    format_version: int
    family: str
    model: str | None
    model_id: str
    width: int
    height: int
    point: int
    steps: int
    file_bytes: int
    bpp: float
    grey: bool
    chunks: tuple[tuple[str, int], ...]
    overhead_bytes: int
    symbols_sha256: str | None = None
    bits: Mapping[str, float] = field(default_factory=dict)
    decoders: Mapping[str, DecoderInfo] = field(default_factory=dict)


class Stopwatch:
    """Wall time per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap, or since the start, for a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def encode(
    source: ImageSource,
    *,
    bpp: float | None = None,
    size: int | None = None,
    quality: float | None = None,
    model: str = DEFAULT_MODEL,
    steps: int | None = None,
    metadata: str = "icc",
    tune: int = 0,
    device: str = "auto",
    max_pixels: int = box.MAX_PIXELS,
    offline: bool = False,
    progress: Progress | None = None,
) -> Encoded:
    """Compress an image.

    Args:
        source: A path, a file's bytes, an open file or a Pillow image.
        bpp: Bits per pixel of the whole file, not to be exceeded. The largest file that fits is
            written: of large pictures, the largest of several rate points about the target.
        size: Bytes of the whole file, likewise.
        quality: 0..100, linear in the rate points of the model. At most one of bpp, size and
            quality; without any, bpp is 0.1, or whatever it is with a model of a single rate.
        model: A weight set of the registry, or the path of a weight file.
        steps: Denoising steps that the file asks its decoder for, 0..250; None is the model's.
        metadata: "none" (colours converted to sRGB), "icc", or "all" (ICC, EXIF and XMP).
        tune: Iterations to spend on what the file tells its decoder of this very image, with
            models that can.
        device: Where the networks run. Files may differ in a few bits between devices, but what is
            in one is read exactly on all of them.
        max_pixels: Larger images are refused.
        offline: Never fetch weights.
        progress: Called after every such iteration.

    Raises:
        InputError: If the image can't be read.
        OutOfReach: If the target is below what the model can do; an InputError too.
        WeightsError: If the weights can't be had.
    """
    check_targets(bpp, size, quality)
    if metadata not in METADATA:
        raise InputError(f"metadata must be one of {', '.join(METADATA)}, not {metadata}")
    if steps is not None and not 0 <= steps <= box.MAX_STEPS:
        raise InputError(f"a file can ask for 0 to {box.MAX_STEPS} steps, not {steps}")
    watch = Stopwatch()
    picture = load_picture(source, max_pixels)
    if metadata == "none":
        picture = replace(image.to_srgb(picture), exif=None, xmp=None)
    elif metadata == "icc":
        picture = replace(picture, exif=None, xmp=None)
    height, width = picture.pixels.shape[:2]
    pixels = width * height
    watch.lap("read")
    chosen = models.choose(model)
    codec = families.load_codec(chosen, device, offline)
    if tune < 0:
        raise InputError(f"tuning takes 0 iterations or more, not {tune}")
    if tune and not isinstance(codec, Describing):
        raise OptionError(f"{model} has nothing to tune")
    watch.lap("load")
    analysis = codec.analyse(picture.pixels)
    watch.lap("analyse")

    family = chosen.family
    name, decoder = next(iter(codec.decoders.items()))
    if steps is not None and not decoder.min_steps <= steps <= decoder.max_steps:
        raise OptionError(f"decoder {name} takes {decoder.range}, not {steps}")
    header = Header(
        family=families.FAMILIES[family].number,
        model_id=codec.walk.model_id,
        width=width,
        height=height,
        point=0,
        steps=decoder.steps if steps is None else steps,
    )
    extras = _metadata_chunks(picture)

    drafter = Drafter(codec, analysis, header, extras)

    def finish(draft: Draft, tune: int = 0) -> Draft:
        """Add what can be told only when all else stands."""
        if not isinstance(codec, Describing):
            return draft
        watch.lap("code")
        told = codec.describe(picture.pixels, draft.latents, draft.point, tune, progress)
        watch.lap("describe")
        return drafter.add(draft, told)

    notes = list(picture.notes)
    points = codec.walk.rate_points
    if points == 1 and bpp is None and size is None:
        quality = 100  # there is one rate, so nobody need ask for it
    if quality is not None:
        draft = finish(drafter.write(round(quality / 100 * (points - 1))), tune)
        target_bpp = None
    else:
        if size is None:
            target_bpp = DEFAULT_BPP if bpp is None else bpp
            budget = int(target_bpp * pixels / 8)
        else:
            budget, target_bpp = int(size), 8 * size / pixels
        fit = Fit(drafter, budget, finish if isinstance(codec, Describing) else None)
        draft = fit.draft
        if tune and len((tuned := finish(draft, tune)).data) <= budget:
            draft = tuned
        taken = len(draft.data)
        if taken > budget:
            smallest = f"the smallest possible file has {taken} bytes, {8 * taken / pixels:.4f} bpp"
            if bpp is not None or size is not None:
                raise OutOfReach(
                    f"{budget} bytes are too few for this image and {model}", hint=smallest
                )
            notes.append(f"{DEFAULT_BPP} bpp are too few for an image so small: {smallest}")
        if taken < 0.96 * budget:
            larger = fit.larger()
            if larger is None:
                notes.append(f"{model} cannot use more than {8 * taken / pixels:.3f} bpp")
            else:
                notes.append(
                    f"the next larger file has {larger} bytes, {8 * larger / pixels:.4f} bpp"
                )
    watch.lap("code")
    return Encoded(
        data=draft.data,
        width=width,
        height=height,
        model=model,
        family=family,
        point=draft.point,
        target_bpp=target_bpp,
        bits=dict(draft.bits),
        seconds=watch.seconds,
        notes=tuple(notes),
    )


def check_targets(bpp: float | None, size: int | None, quality: float | None) -> None:
    """Check what says how far to compress.

    Raises:
        InputError: If it is no such number, or there are several.
    """
    if sum(target is not None for target in (bpp, size, quality)) > 1:
        raise InputError("bpp, size and quality exclude one another")
    for target in (bpp, size):
        if target is not None and not 0 <= target < math.inf:
            raise InputError(f"a target must be a number from 0 upwards, not {target}")
    if quality is not None and not 0 <= quality <= 100:
        raise InputError(f"quality runs from 0 to 100, not {quality}")


def decode(
    source: FileSource,
    decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
    *,
    model: str | None = None,
    max_pixels: int = box.MAX_PIXELS,
    offline: bool = False,
    progress: Progress | None = None,
) -> Decoded:
    """Decode a compressed file.

    Args:
        source: A path, the file's bytes or an open file.
        decoding: The reader's choices.
        model: A weight set or the path of a weight file, which must have the id that the file
            names; None takes the first set of the registry that has it.
        max_pixels: Larger images are refused before memory is taken.
        offline: Never fetch weights.
        progress: Called after every denoising step.

    Raises:
        CdcError: Any of its kinds, see cdcodec.errors.
    """
    watch = Stopwatch()
    file = read_file(source, read_bytes(source), max_pixels)
    header = file.header
    family = families.by_number(header.family)
    watch.lap("read")
    chosen, walk = open_walk(file, family, offline, model)
    latents, _reader = read_latents(file, walk)
    alpha = file.chunk(ChunkType.ALPHA)
    picture = image.Picture(
        pixels=np.empty((0, 0, 3), np.uint8),
        grey=file.chunk(ChunkType.COLOUR) is not None,
        alpha=None if alpha is None else image.decode_alpha(alpha, header.width, header.height),
        icc=_metadata(file, ChunkType.ICC, box.MAX_ICC_BYTES),
        exif=_metadata(file, ChunkType.EXIF, box.MAX_EXIF_BYTES),
        xmp=_metadata(file, ChunkType.XMP, box.MAX_XMP_BYTES),
    )
    watch.lap("entropy")
    codec = families.load_codec(chosen, decoding.device, offline)
    decoding = resolve(decoding, codec.decoders, header.steps)
    watch.lap("load")
    pixels = codec.synthesise(
        latents, header.width, header.height, header.point, decoding, progress
    )
    watch.lap("synthesise")
    assert decoding.steps is not None
    assert decoding.decoder is not None
    return Decoded(
        picture=replace(picture, pixels=pixels),
        model=chosen.name,
        family=family,
        decoder=decoding.decoder,
        steps=decoding.steps,
        seed=decoding.seed,
        device=str(codec.device),
        seconds=watch.seconds,
    )


def info(
    source: FileSource,
    *,
    verify: bool = False,
    model: str | None = None,
    max_pixels: int = box.MAX_PIXELS,
    offline: bool = False,
) -> FileInfo:
    """Describe a compressed file; with verify, run its entropy decoder (no torch is needed).

    Args:
        source: A path, the file's bytes or an open file.
        verify: Read every symbol.
        model: As in decode.
        max_pixels: Larger images are refused.
        offline: Never fetch weights.

    Raises:
        CdcError: Any of its kinds, see cdcodec.errors.
    """
    data = read_bytes(source)
    file = read_file(source, data, max_pixels)
    header = file.header
    family = families.by_number(header.family)
    payload_bytes = sum(len(chunk.payload) for chunk in file.chunks)
    chosen, walk = _known(header.model_id), None
    if verify or model is not None:
        chosen, walk = open_walk(file, family, offline, model)
    described = FileInfo(
        format_version=box.FORMAT_VERSION,
        family=family,
        model=None if chosen is None else chosen.name,
        model_id=header.model_id.hex(),
        width=header.width,
        height=header.height,
        point=header.point,
        steps=header.steps,
        file_bytes=len(data),
        bpp=8 * len(data) / (header.width * header.height),
        grey=file.chunk(ChunkType.COLOUR) is not None,
        chunks=tuple((chunk.name, len(chunk.payload)) for chunk in file.chunks),
        overhead_bytes=len(data) - payload_bytes,
        decoders={} if chosen is None else families.decoders(chosen),
    )
    if walk is None or not verify:
        return described
    _latents, reader = read_latents(file, walk)
    return replace(described, symbols_sha256=reader.digest(), bits=dict(reader.bits))


def _known(model_id: bytes) -> weights.WeightSet | None:
    """Return the weight set that decoding would use, or None if there is none."""
    try:
        return weights.by_model_id(model_id)
    except WeightsError:
        return None


def read_bytes(source: FileSource) -> bytes:
    """Return a compressed file's bytes.

    Raises:
        InputError: If the file can't be read.
        BitstreamError: If it is larger than the format allows.
    """
    if isinstance(source, bytes):
        return source
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                data = file.read(box.MAX_FILE_BYTES + 1)
        else:
            data = source.read(box.MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error
    if len(data) > box.MAX_FILE_BYTES:
        raise BitstreamError(f"file is larger than {box.MAX_FILE_BYTES} bytes")
    return data


def read_file(source: FileSource, data: bytes, max_pixels: int) -> Container:
    """Read a compressed file; the error for a picture says that it is a picture.

    Args:
        source: Where the data is from, for messages.
        data: The file.
        max_pixels: Larger images are refused.

    Raises:
        BitstreamError: If it is no compressed file, or a damaged one.
        UnsupportedError: If it needs a newer version, or has more pixels.
    """
    if not data.startswith(box.MAGIC) and (format := image.format_of(data)):
        raise BitstreamError(
            f"{image.name_of(source)} is a picture ({format}), not a compressed file",
            hint="cdcodec encode compresses it",
        )
    return box.read(data, max_pixels=max_pixels)


def load_picture(source: ImageSource, max_pixels: int) -> image.Picture:
    """Load an image as `image.load` does; the error for a compressed file says what it is.

    Raises:
        InputError: If there is no picture to be had.
    """
    return image.load(source, max_pixels=max_pixels, refused={box.MAGIC: COMPRESSED})


def open_walk(
    file: Container, family: str, offline: bool, model: str | None = None
) -> tuple[weights.WeightSet, Walk]:
    """Return the weight set that a file names, and its entropy-coded half.

    Args:
        file: The file.
        family: Its family.
        offline: Never fetch weights.
        model: The weights to take, see models.choose; None looks for them in the registry.

    Raises:
        BitstreamError: If the file hasn't the chunks of its family.
        WeightsError: If the weights can't be had.
    """
    weight_set = _weights_of(file.header.model_id) if model is None else models.choose(model)
    if weight_set.family != family:
        if model is not None:
            raise _other_weights(model, file.header.model_id)
        raise BitstreamError(f"file is of family {family}, but its weights are {weight_set.name}")
    needed = families.FAMILIES[family].chunks
    for kind in SIDE:
        name = kind.name.lower()
        if kind in needed and file.chunk(kind) is None:
            raise BitstreamError(f"file has no {name} chunk, which {family} needs")
        if kind not in needed and file.chunk(kind) is not None:
            raise BitstreamError(f"file has a {name} chunk, which {family} has no use for")
    walk = families.load_walk(weight_set, offline)
    if model is not None and walk.model_id != file.header.model_id:
        raise _other_weights(model, file.header.model_id)
    return weight_set, walk


def _weights_of(model_id: bytes) -> weights.WeightSet:
    try:
        return weights.by_model_id(model_id)
    except WeightsError as error:
        hint = "--model FILE.safetensors names weights of your own"
        raise WeightsError(
            error.message, hint=f"{hint}; {error.hint}" if error.hint else hint
        ) from error


def _other_weights(model: str, model_id: bytes) -> WeightsError:
    """Return what to raise when a file wasn't made with the weights that the user names."""
    known = _known(model_id)
    return WeightsError(
        f"the file was not made with {model}, but with weights of the id {model_id.hex()}",
        hint=f"{known.name} has that id, and is found without --model" if known else None,
    )


def read_latents(file: Container, walk: Walk) -> tuple[Latents, Reader]:
    """Return a file's latents, side information included, and what read them.

    Raises:
        BitstreamError: If what the file says is beyond the model.
        DesyncError: If it doesn't decode to what was written.
    """
    header = file.header
    payload = file.chunk(ChunkType.LATENTS)
    if payload is None:
        raise BitstreamError("file has no latents")
    if header.point >= walk.rate_points:
        raise BitstreamError(f"rate point {header.point} is beyond the model's {walk.rate_points}")
    told: Latents = {}
    if isinstance(walk, SideWalk):
        side = {ChunkType(chunk.type): chunk.payload for chunk in file.chunks if chunk.type in SIDE}
        told = walk.unpack(side)
    reader = Reader(payload)
    latents = walk.code(reader, told or None, header.width, header.height, header.point)
    reader.finish()
    for name, values in told.items():
        reader.record(name, values)
    return {**latents, **told}, reader


def resolve(
    decoding: Decoding, decoders: Mapping[str, DecoderInfo], default_steps: int
) -> Decoding:
    """Fill in what the user left open, from the file and the decoder.

    Raises:
        OptionError: If there is no such decoder, or the decoder doesn't take what was chosen.
    """
    name = next(iter(decoders)) if decoding.decoder is None else decoding.decoder
    if name not in decoders:
        raise OptionError(f"unknown decoder {name}", hint=f"there are {', '.join(decoders)}")
    info = decoders[name]
    steps = decoding.steps
    if steps is None:  # a file only advises, and the decoder may be one that it doesn't know
        steps = min(max(default_steps, info.min_steps), info.max_steps)
    if not info.min_steps <= steps <= info.max_steps:
        raise OptionError(f"decoder {name} takes {info.range}, not {steps}")
    return replace(
        decoding,
        decoder=name,
        steps=steps,
        stochasticity=_taken("stochasticity", decoding.stochasticity, name, decoders),
        guidance=_taken("guidance", decoding.guidance, name, decoders),
    )


def _taken(
    option: str, chosen: float | None, name: str, decoders: Mapping[str, DecoderInfo]
) -> float | None:
    """Return an option's value, the user's or the decoder's, which may have no such option."""
    own: float | None = getattr(decoders[name], option)
    if chosen is None or own is not None:
        return own if chosen is None else chosen
    others = [each for each, info in decoders.items() if getattr(info, option) is not None]
    hint = f"{' and '.join(others)} can have it" if others else "cdcodec info lists what it takes"
    raise OptionError(f"decoder {name} takes no {option}", hint=hint)


def _metadata_chunks(picture: image.Picture) -> tuple[Chunk, ...]:
    """Return the chunks of all that is kept beside the colours."""
    chunks = []
    if picture.grey:
        chunks.append(Chunk(ChunkType.COLOUR, bytes([box.COLOUR_GREY])))
    if picture.alpha is not None:
        chunks.append(Chunk(ChunkType.ALPHA, image.encode_alpha(picture.alpha)))
    kinds = (
        (ChunkType.ICC, picture.icc),
        (ChunkType.EXIF, picture.exif),
        (ChunkType.XMP, picture.xmp),
    )
    for kind, raw in kinds:
        if raw:
            chunks.append(Chunk(kind, box.pack_metadata(raw)))
    return tuple(chunks)


def _metadata(file: Container, kind: ChunkType, limit: int) -> bytes | None:
    payload = file.chunk(kind)
    return None if payload is None else box.unpack_metadata(payload, limit)
