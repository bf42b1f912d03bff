"""`cdcodec train`: a recipe becomes a run."""

from __future__ import annotations

from pathlib import Path

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import PATH, Number, Talk
from cdcodec.errors import InputError


@click.command(short_help="Train a model by a recipe.")
@click.argument("recipe", metavar="RECIPE.toml", type=PATH)
@click.option(
    "-o",
    "--output",
    metavar="RUN_DIR",
    type=PATH,
    help="Folder of the run; default runs/RECIPE.",
)
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option(
    "--minutes",
    type=Number(min=0, min_open=True),
    metavar="N",
    help="Stop cleanly in that time, with a checkpoint to resume from.",
)
@console.machine_options
@console.talk_options
def command(
    recipe: str,
    output: str | None,
    resume: bool,
    minutes: float | None,
    device: str,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train by the recipe RECIPE.toml, and print the path of what came out of it.

    Progress goes to stderr.
    """
    talk = Talk(quiet, verbose, as_json)
    if recipe == files.STANDARD:
        raise InputError("a recipe must be a file")
    files.source(recipe)
    run_dir = Path("runs", Path(recipe).stem) if output is None else Path(output)
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is not a folder")

    from cdcodec.training import loop

    latest: dict[str, float] = {}

    def report(measured: dict[str, float]) -> None:
        latest.update(measured)
        talk.say("  ".join(f"{name} {value:g}" for name, value in measured.items()))

    result = loop.train(
        Path(recipe), run_dir, resume=resume, minutes=minutes, device=device, report=report
    )
    if as_json:
        talk.report({"recipe": recipe, "output": str(result), "measured": latest})
    else:
        click.echo(click.format_filename(result))
