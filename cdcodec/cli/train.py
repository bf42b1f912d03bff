"""`cdcodec train`: a recipe becomes a run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdcodec.cli import console, files
from cdcodec.cli.console import PATH, Number, Talk
from cdcodec.errors import InputError

if TYPE_CHECKING:
    from cdcodec.training.loop import Trained

_PLACE = ("step", "steps", "seconds", "left", "done", "loss")
"""Figures of a report that have a place of their own in its line."""


@click.command(short_help="Train a model by a recipe.")
@click.argument("recipe", metavar="RECIPE", type=PATH)
@click.option(
    "--data",
    "photographs",
    metavar="FOLDER",
    type=PATH,
    help="Folder or glob of photographs; default what the recipe says.",
)
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
    photographs: str | None,
    output: str | None,
    resume: bool,
    minutes: float | None,
    device: str,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train by a recipe, and print the path of the weight file that it makes.

    RECIPE is a TOML file, or the name of a recipe that comes with cdcodec, such as cdc-nano-base.
    The latter needs --data. `encode`, `decode` and `eval` take the weight file as --model.

    Progress goes to stderr: a line every few seconds, with the loss and the time that is left.
    """
    talk = Talk(quiet, verbose, as_json)
    if recipe == files.STANDARD:
        raise InputError("a recipe must be a file")
    from cdcodec.training import config

    path = config.find(recipe)
    run_dir = Path("runs", path.stem) if output is None else Path(output)
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"{run_dir} is not a folder")

    from cdcodec.training import loop

    latest: dict[str, float] = {}

    def report(measured: dict[str, float]) -> None:
        latest.update(measured)
        talk.say(progress_line(measured))

    trained = loop.train(
        path,
        run_dir,
        resume=resume,
        minutes=minutes,
        device=device,
        photographs=photographs,
        report=report,
    )
    if note := unfinished_note(trained):
        talk.note(note)
    if trained.codes:
        made = shlex.quote(str(trained.path))
        talk.say(
            f"to use it: cdcodec encode PHOTO --model {made}, and decode with the same --model"
        )
    if as_json:
        talk.report({"recipe": recipe, "output": str(trained.path), "measured": latest})
    else:
        click.echo(click.format_filename(trained.path))


def progress_line(measured: dict[str, float]) -> str:
    """Return the line that is shown for a report, see training.loop.Report."""
    line = (
        f"step {measured['step']:,.0f} of {measured['steps']:,.0f}, loss {measured['loss']:.4g}, "
        f"{duration(measured['left'])} left"
    )
    others = [f"{name} {value:.4g}" for name, value in measured.items() if name not in _PLACE]
    return f"{line} ({', '.join(others)})" if others else line


def unfinished_note(trained: Trained) -> str | None:
    """Return a note on weights that were exported before the last step; None if it was made."""
    if trained.step >= trained.steps:
        return None
    part = 100 * trained.step / trained.steps
    start = "random weights" if trained.from_nothing else "trained weights"
    quality = (
        "pictures are still poor, and don't show what the whole recipe gives"
        if trained.from_nothing
        else "pictures are nearly those of the weights at the start"
    )
    if part >= 10:
        quality = "pictures are worse than the whole recipe makes them"
    return (
        f"{trained.step:,} of {trained.steps:,} steps ({part:.2g} %) were made, from {start}: "
        f"{quality}; the other steps take about {duration(trained.seconds_to_go)} here, "
        "and --resume makes them"
    )


def duration(seconds: float) -> str:
    """Return a time as text, rounded to seconds, minutes or tenths of an hour."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
