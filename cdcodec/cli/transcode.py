"""`cdcodec transcode`: a compressed file becomes a smaller one."""

from __future__ import annotations

from typing import Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import PATH, Talk
from cdcodec.cli.encode import deliver


@click.command(short_help="Make a smaller file of a compressed one, without the original.")
@click.argument("source", metavar="IN", type=PATH)
@console.output_option
@console.target_options()
@console.model_option
@console.max_pixels_option
@console.overwrite_option
@console.talk_options
def command(
    source: str,
    output: str | None,
    bpp: float | None,
    size: int | None,
    quality: float | None,
    model: str | None,
    max_pixels: int | None,
    overwrite: bool,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a smaller file of the compressed file IN, if it is of a scalable model.

    One of --bpp, --size and --quality says how far. What is written is what `encode` would have
    written of the original at this point of the model; it takes neither the original nor networks.
    A file can't get larger: it is copied if it is within --bpp or --size already.

    -o names the smaller file, or a directory where it keeps its name; stdin (-) goes to stdout.
    """
    console.check_targets(bpp, size, quality)
    if bpp is None and size is None and quality is None:
        raise click.UsageError(
            "one of --bpp, --size and --quality must say how far", click.get_current_context()
        )
    talk = Talk(quiet, verbose, as_json)
    opened = files.source(source)
    target = files.target(source, output, ".cdc", overwrite=overwrite)

    from cdcodec.transcoding import transcode

    limits: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    made = transcode(opened, bpp=bpp, size=size, quality=quality, model=model, **limits)
    more = {"source_bytes": made.source_bytes, "source_point": made.source_point}
    deliver(talk, made, source, target, more)
