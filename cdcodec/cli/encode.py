"""`cdcodec encode`: an image becomes a compressed file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import Talk
from cdcodec.errors import InputError

if TYPE_CHECKING:
    from cdcodec.api import Encoded


SUFFIX = ".cdc"
SEVERAL = "examples/folder.sh compresses a folder"


def _complete_models(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    from cdcodec import weights

    sets = weights.load_registry().values()
    return [each.name for each in sets if each.model_id and each.name.startswith(incomplete)]


@click.command(short_help="Compress an image.")
@console.in_and_out
@console.output_option
@console.target_options("; default 0.1")
@click.option(
    "--model",
    metavar="NAME|FILE",
    shell_complete=_complete_models,
    help="Weights to encode with: a name (cdcodec weights list) or a .safetensors file that "
    "`cdcodec train` wrote; default cdc-nano.",
)
@click.option(
    "--steps",
    type=click.IntRange(0, 250),
    metavar="N",
    help="Diffusion steps to store as the file's default; default the model's.",
)
@click.option(
    "--metadata",
    type=click.Choice(["none", "icc", "all"]),
    default="icc",
    show_default=True,
    help="What to keep: nothing (colours become sRGB), the colour profile, or EXIF and XMP too.",
)
@click.option(
    "--tune",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Iterations to spend on what the file says of this very image, with models that can.",
)
@console.overwrite_option
@console.machine_options
@console.talk_options
def command(
    names: tuple[str, ...],
    output: str | None,
    bpp: float | None,
    size: int | None,
    quality: float | None,
    model: str | None,
    steps: int | None,
    metadata: str,
    tune: int,
    overwrite: bool,
    device: str,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compress the image IN: PNG, JPEG, WebP, TIFF and others.

    At most one of --bpp, --size and --quality says how far. --bpp and --size count the whole file,
    and it never takes more.

    Without OUT, photo.png becomes photo.cdc beside it, and stdin (-) goes to stdout. -o OUT is the
    same as OUT; if OUT is a directory, the file keeps its name there.
    """
    source, output = console.split_names(
        names,
        output,
        lambda name: name.suffix.lower() == SUFFIX or is_new_picture(name),
        SEVERAL,
    )
    console.check_targets(bpp, size, quality)
    talk = Talk(quiet, verbose, as_json)
    opened = files.source(source, several=SEVERAL)
    if os.path.isfile(source):  # before its own name is taken for the output's
        _refuse_compressed(source)
    target = compressed_target(source, output, overwrite=overwrite)

    from cdcodec import api

    named: dict[str, Any] = {} if model is None else {"model": model}
    with talk.bar("encoding", unit="iterations" if tune else None) as bar:
        encoded = api.encode(
            opened,
            bpp=bpp,
            size=size,
            quality=quality,
            steps=steps,
            metadata=metadata,
            tune=tune,
            device=device,
            progress=bar,
            **named,
        )
    deliver(talk, encoded, source, target)


def is_new_picture(name: Path) -> bool:
    """Tell whether a name is a picture's and no file has it: as an output it can be refused."""
    from cdcodec.image import PICTURE_SUFFIXES

    return name.suffix.lower() in PICTURE_SUFFIXES and not name.exists()


def _refuse_compressed(source: str) -> None:
    """Check that a file isn't a compressed one; whether it is a picture shows later.

    Raises:
        InputError: It is a compressed file.
    """
    from cdcodec.api import COMPRESSED
    from cdcodec.bitstream.container import MAGIC

    try:
        with open(source, "rb") as fp:
            start = fp.read(len(MAGIC))
    except OSError:  # loading the picture says why
        return
    if start == MAGIC:
        raise InputError(f"cannot read {source}: {COMPRESSED}")


def compressed_target(
    source: str, output: str | None, *, overwrite: bool, aside: str | None = None
) -> files.Target:
    """Return where a compressed file goes; see files.target.

    As in other codecs, any suffix will do but those of pictures.

    Raises:
        InputError: The file can't be written there, or its name would be a picture's.
    """
    if output is not None and not os.path.isdir(output):
        from cdcodec.image import PICTURE_SUFFIXES

        suffix = Path(output).suffix
        if suffix.lower() in PICTURE_SUFFIXES:
            raise InputError(
                f"cannot write {output}: {suffix} is for pictures, and this is a compressed file",
                hint=f"name it {Path(output).with_suffix(SUFFIX)}",
            )
    return files.target(source, output, SUFFIX, overwrite=overwrite, aside=aside)


def deliver(
    talk: Talk,
    encoded: Encoded,
    source: str,
    target: files.Target,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Write a compressed file, and say so; `more` goes into the report."""
    start = time.perf_counter()
    with target.open() as fp:
        fp.write(encoded.data)
    seconds = {**encoded.seconds, "write": time.perf_counter() - start}

    for note in encoded.notes:
        talk.note(note)
    asked = f" of {encoded.target_bpp:.4g}" if encoded.target_bpp is not None else ""
    talk.say(
        f"{target.name}: {encoded.width}x{encoded.height}, {len(encoded.data):,} bytes, "
        f"{encoded.bpp:.4f}{asked} bpp, {encoded.model} at point {encoded.point}"
    )
    talk.bits(encoded.bits)
    talk.seconds(seconds)
    talk.report(
        {
            "input": source,
            "output": files.STANDARD if target.is_stdout else target.name,
            "width": encoded.width,
            "height": encoded.height,
            "bytes": len(encoded.data),
            "bpp": encoded.bpp,
            "target_bpp": encoded.target_bpp,
            "model": encoded.model,
            "family": encoded.family,
            "point": encoded.point,
            "bits": console.rounded(encoded.bits, 2),
            "seconds": console.rounded(seconds, 4),
            "notes": list(encoded.notes),
            **more,
        },
        stdout_taken=target.is_stdout,
    )
