"""`cdcodec enhance`: what another codec decoded, made to look more natural."""

from __future__ import annotations

import os
from typing import Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import PATH, Talk
from cdcodec.cli.decode import deliver, image_format, quicker
from cdcodec.errors import BitstreamError, InputError

SUFFIX = ".enhanced"
SEVERAL = console.each_in_shell(".jpg", "enhance")
MAX_SYNTAX_FILE_BYTES = 64


@click.command(short_help="Make another codec's picture look more natural.")
@console.in_and_out
@console.output_option
@click.option(
    "--steps",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Diffusion steps; default the model's.",
)
@console.seed_option
@click.option(
    "--model",
    metavar="NAME|FILE",
    help="Weights to enhance with, a name or a .safetensors file; default cgdm-nano.",
)
@click.option(
    "--reference",
    metavar="FILE",
    type=PATH,
    help="The original, to make a syntax vector with; --syntax says where it goes.",
)
@click.option(
    "--syntax",
    metavar="FILE",
    type=PATH,
    help="File with a syntax vector, which says what the original was like.",
)
@click.option(
    "--tune",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Iterations to spend on the syntax vector, with --reference.",
)
@console.format_option
@console.overwrite_option
@console.machine_options
@console.talk_options
def command(
    names: tuple[str, ...],
    output: str | None,
    steps: int | None,
    seed: int | None,
    model: str | None,
    reference: str | None,
    syntax: str | None,
    tune: int,
    format_name: str | None,
    overwrite: bool,
    device: str,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Restore the image IN: a JPEG, WebP, AVIF or any other that a lossy codec made.

    The texture that comes in is invented: it is likely, and not what was there. With --reference
    and --syntax, a vector of at most 28 bytes is made of the original and written; whoever has it
    gets closer to the original with --syntax alone.

    Without OUT, photo.jpg becomes photo.enhanced.png beside it, or photo.enhanced-2.png if that is
    there already, and stdin (-) goes to stdout. -o OUT is the same as OUT, or a directory.
    """
    source, output = console.split_names(
        names, output, lambda name: name.suffix != "" and not name.exists(), SEVERAL
    )
    if reference is not None and syntax is None:
        raise click.UsageError("--reference needs --syntax", click.get_current_context())
    if tune and reference is None:
        raise click.UsageError("--tune needs --reference", click.get_current_context())
    talk = Talk(quiet, verbose, as_json)
    for option, name in (("--reference", reference), ("--syntax", syntax)):
        if name == files.STANDARD:
            raise click.UsageError(f"{option} must be a file", click.get_current_context())
    opened = files.source(source, several=SEVERAL)
    format = image_format(format_name, output)
    target = files.target(
        source, output, f"{SUFFIX}.{format}", overwrite=overwrite, aside="enhanced"
    )
    vector, description = None, b""
    if reference is not None:
        files.source(reference)
        vector = files.target(reference, syntax, SUFFIX, overwrite=overwrite)
        if {os.path.realpath(vector.name)} & {os.path.realpath(n) for n in (source, target.name)}:
            raise InputError(f"--syntax {syntax} is the input or the output", hint="name another")
    elif syntax is not None:
        description = _read(syntax)

    from cdcodec import enhancement
    from cdcodec.codec import Decoding

    named: dict[str, Any] = {} if model is None else {"model": model}
    choices = {"steps": steps, "seed": seed}
    chosen: dict[str, Any] = {name: v for name, v in choices.items() if v is not None}
    picture = opened if isinstance(opened, str) else opened.read()  # it is read twice
    if reference is not None:
        with talk.bar("looking", unit="iterations" if tune else None) as bar:
            description = enhancement.describe(
                reference, picture, tune=tune, device=device, progress=bar, **named
            )
    with talk.bar("enhancing", unit="steps", advice=quicker(steps)) as bar:
        decoded = enhancement.enhance(
            picture,
            Decoding(device=device, **chosen),
            description=description,
            progress=bar,
            **named,
        )
    deliver(talk, decoded, source, target, format)
    if vector is not None:
        with vector.open() as fp:
            fp.write(description)
        talk.say(f"{vector.name}: {len(description)} bytes")


def _read(path: str) -> bytes:
    """Return the contents of a file with a syntax vector.

    Raises:
        InputError: If it can't be read.
        BitstreamError: If it is empty.
    """
    files.source(path)
    try:
        with open(path, "rb") as fp:
            data = fp.read(MAX_SYNTAX_FILE_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not data:
        raise BitstreamError(f"{path} is empty")
    return data
