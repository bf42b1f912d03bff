"""`cdcodec transcode`: a compressed file becomes a smaller one."""

from __future__ import annotations

from typing import Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import Talk
from cdcodec.cli.encode import SUFFIX, compressed_target, deliver, is_new_picture

SEVERAL = console.each_in_shell(SUFFIX, "transcode --bpp 0.05")


@click.command(short_help="Make a smaller file of a compressed one, without the original.")
@console.in_and_out
@console.output_option
@console.target_options()
@console.model_option
@console.max_pixels_option
@console.overwrite_option
@console.talk_options
def command(
    names: tuple[str, ...],
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
    written of the original at this point of the model; neither the original nor networks are
    needed. A file can't get larger: one that is within --bpp or --size already is copied.

    Without OUT, large.cdc becomes large.transcoded.cdc beside it, and stdin (-) goes to stdout.
    -o OUT is the same as OUT; if OUT is a directory, the file keeps its name there.
    """
    source, output = console.split_names(
        names,
        output,
        lambda name: name.suffix.lower() == SUFFIX and not name.exists() or is_new_picture(name),
        SEVERAL,
    )
    console.check_targets(bpp, size, quality)
    if bpp is None and size is None and quality is None:
        raise click.UsageError(
            "one of --bpp, --size and --quality must say how far", click.get_current_context()
        )
    talk = Talk(quiet, verbose, as_json)
    opened = files.source(source, several=SEVERAL)
    target = compressed_target(source, output, overwrite=overwrite, aside="transcoded")

    from cdcodec.transcoding import transcode

    limits: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    made = transcode(opened, bpp=bpp, size=size, quality=quality, model=model, **limits)
    more = {"source_bytes": made.source_bytes, "source_point": made.source_point}
    deliver(talk, made, source, target, more)
