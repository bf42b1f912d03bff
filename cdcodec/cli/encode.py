"""`cdcodec encode`: an image becomes a compressed file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import PATH, Talk

if TYPE_CHECKING:
    from cdcodec.api import Encoded


def _complete_models(
    _ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    from cdcodec import weights

    sets = weights.load_registry().values()
    return [each.name for each in sets if each.model_id and each.name.startswith(incomplete)]


@click.command(short_help="Compress an image.")
@click.argument("source", metavar="IN", type=PATH)
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
    source: str,
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

    Without -o, photo.png becomes photo.cdc beside it, and stdin (-) goes to stdout. If OUT is a
    directory, the file keeps its name there.
    """
    console.check_targets(bpp, size, quality)
    talk = Talk(quiet, verbose, as_json)
    opened = files.source(source)
    target = files.target(source, output, ".cdc", overwrite=overwrite)

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
