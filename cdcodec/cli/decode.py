"""`cdcodec decode`: a compressed file becomes an image."""

from __future__ import annotations

import difflib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import AnyNumber, Number, Talk
from cdcodec.errors import InputError

if TYPE_CHECKING:
    from cdcodec.api import Decoded

DEFAULT_FORMAT = "png"
SEVERAL = console.each_in_shell(".cdc", "decode")
_SUFFIXES = {"jpeg": ".jpg"}
"""Suffixes that differ from the name of their format."""


def image_format(name: str | None, output: str | None) -> str:
    """Return the format to write: the one named, else the one of OUT's suffix, else PNG.

    Raises:
        click.BadParameter: The named format is unknown.
        InputError: The suffix is.
    """
    if name is None and (output is None or output == files.STANDARD):
        return DEFAULT_FORMAT
    from cdcodec.image import EXTENSIONS, WRITABLE

    if name is not None:
        name = name.lower().removeprefix(".")
        chosen = EXTENSIONS.get(f".{name}", name)
        if chosen not in WRITABLE:
            near = difflib.get_close_matches(chosen, WRITABLE, 1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(WRITABLE)}"
            raise click.BadParameter(f"{name!r} is unknown: {advice}", param_hint="--format")
        return chosen
    assert output is not None
    suffix = "" if Path(output).is_dir() else Path(output).suffix.lower()
    if suffix and suffix not in EXTENSIONS:
        raise InputError(
            f"cannot tell an image format from the name {output}",
            hint=f"give it with --format: {', '.join(WRITABLE)}",
        )
    return EXTENSIONS.get(suffix, DEFAULT_FORMAT)


@click.command(short_help="Turn a compressed file back into an image.")
@console.in_and_out
@console.output_option
@click.option(
    "--steps",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Diffusion steps; default what the file says. 0 decodes without diffusion.",
)
@click.option(
    "--decoder",
    metavar="NAME",
    help="Which of the decoders that cdcodec info lists; default the first.",
)
@console.model_option
@console.seed_option
@click.option(
    "--stochasticity",
    type=Number(min=0),
    metavar="G",
    help="Standard deviation of the noise, for decoders that take it; default the decoder's.",
)
@click.option(
    "--guidance",
    type=AnyNumber(),
    metavar="S",
    help="Strength of guidance, for decoders that have it; cdcodec info lists decoders.",
)
@console.format_option
@console.max_pixels_option
@console.overwrite_option
@console.machine_options
@console.talk_options
def command(
    names: tuple[str, ...],
    output: str | None,
    steps: int | None,
    decoder: str | None,
    model: str | None,
    seed: int | None,
    stochasticity: float | None,
    guidance: float | None,
    format_name: str | None,
    max_pixels: int | None,
    overwrite: bool,
    device: str,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Decode the compressed file IN.

    Without OUT, photo.cdc becomes photo.png beside it, or photo.decoded.png if photo.png exists;
    --overwrite doesn't replace photo.png either. stdin (-) goes to stdout. -o OUT is the same as
    OUT; if OUT is a directory, the image keeps its name there.
    """
    source, output = console.split_names(
        names,
        output,
        lambda name: name.suffix.lower() not in ("", ".cdc") and not name.is_dir(),
        SEVERAL,
    )
    talk = Talk(quiet, verbose, as_json)
    opened = files.source(source, several=SEVERAL)
    format = image_format(format_name, output)
    suffix = _SUFFIXES.get(format, f".{format}")
    target = files.target(source, output, suffix, overwrite=overwrite, aside="decoded")

    from cdcodec import api
    from cdcodec.codec import Decoding

    choices = {
        "steps": steps,
        "decoder": decoder,
        "seed": seed,
        "stochasticity": stochasticity,
        "guidance": guidance,
    }
    chosen: dict[str, Any] = {name: v for name, v in choices.items() if v is not None}
    limits: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    if model is not None:
        limits["model"] = model
    with talk.bar("decoding", unit="steps", advice=quicker(steps)) as bar:
        decoded = api.decode(opened, Decoding(device=device, **chosen), progress=bar, **limits)
    deliver(talk, decoded, source, target, format)


def quicker(steps: int | None) -> str:
    """Return the advice for a long wait; steps is None for the default number."""
    return "--steps 1 is quickest" if steps is None or steps > 1 else ""


def deliver(talk: Talk, decoded: Decoded, source: str, target: files.Target, format: str) -> None:
    """Write a decoded picture, and say so."""
    from cdcodec import image

    picture = decoded.picture
    start = time.perf_counter()
    with target.open() as fp:
        image.save(picture, fp, format)
    seconds = {**decoded.seconds, "write": time.perf_counter() - start}

    steps_taken = f"{decoded.steps} step{'' if decoded.steps == 1 else 's'}"
    if target.kept:
        talk.note(f"{target.kept[0]} exists already and is kept")
    for note in picture.notes:
        talk.note(note)
    talk.say(
        f"{target.name}: {picture.width}x{picture.height}, {decoded.model} with "
        f"{decoded.decoder}, {steps_taken}, seed {decoded.seed}"
    )
    talk.seconds(seconds)
    talk.report(
        {
            "input": source,
            "output": files.STANDARD if target.is_stdout else target.name,
            "format": format,
            "width": picture.width,
            "height": picture.height,
            "model": decoded.model,
            "family": decoded.family,
            "decoder": decoded.decoder,
            "steps": decoded.steps,
            "seed": decoded.seed,
            "device": decoded.device,
            "seconds": console.rounded(seconds, 4),
            "notes": list(picture.notes),
        },
        stdout_taken=target.is_stdout,
    )
