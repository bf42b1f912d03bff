"""`cdcodec eval`: codecs on the same pictures, compared by real files."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdcodec.cli import console
from cdcodec.cli.console import PATH, Talk
from cdcodec.errors import InputError

if TYPE_CHECKING:
    from cdcodec.evaluation.metrics import Metric
    from cdcodec.evaluation.summary import Point

DEFAULT_ANCHORS = ("jpeg", "webp", "avif")


class _List(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions
    """Values with commas between them."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self.read = read

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Read the values, each once."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        try:
            return tuple(dict.fromkeys(self.read(part) for part in parts))
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.name}, with commas", param, ctx)


def _bpp(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1000:
        raise ValueError
    return value


def _steps(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 1000:
        raise ValueError
    return value


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


@click.command(short_help="Compare codecs on real files.")
@click.argument("paths", metavar="PATHS...", nargs=-1, required=True, type=PATH)
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="A weight set or file, or jpeg, webp, avif, jpeg2000, jxl, hevc, vvc; may be repeated. "
    "Of a weight set, steps=0/2/5 stands in for --steps. "
    "NAME=cmd:'ENCODE {in} {out} {bpp}','DECODE {in} {out}' is any other codec: two commands, "
    "pictures as PNG files. "
    "Default: the default model, jpeg, webp and avif.",
)
@click.option(
    "--bpp",
    "targets",
    type=_List("numbers", _bpp),
    default="0.03,0.05,0.1,0.2",
    show_default=True,
    metavar="LIST",
    help="Targets in bits per pixel, of the whole file.",
)
@click.option(
    "--steps",
    type=_List("step counts", _steps),
    default="1,5",
    show_default=True,
    metavar="LIST",
    help="Numbers of steps to decode with, for codecs that have them.",
)
@click.option(
    "--metrics",
    type=_List("names", _name),
    metavar="LIST",
    help="What to measure; default: all that need no weights, and lpips if its weights are here.",
)
@click.option(
    "--tasks",
    type=_List("names", _name),
    default=(),
    metavar="LIST",
    help="What a machine still sees: faces, people, objects=MODEL.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=PATH,
    default="report",
    show_default=True,
    help="Folder of the report; what it holds already isn't measured again.",
)
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Take only N of the pictures.")
@click.option(
    "--reference",
    metavar="NAME",
    help="Codec that Bjøntegaard deltas are against; default: the last one.",
)
@click.option(
    "--viewer",
    type=click.IntRange(0),
    default=6,
    show_default=True,
    metavar="N",
    help="Pictures that the page shows.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes; with more than one, the seconds in the report mean little.",
)
@console.machine_options
@console.talk_options
def command(
    paths: Sequence[str],
    codecs: Sequence[str],
    targets: tuple[float, ...],
    steps: tuple[int, ...],
    metrics: Sequence[str] | None,
    tasks: tuple[str, ...],
    output: str,
    sample: int | None,
    reference: str | None,
    viewer: int,
    jobs: int,
    device: str,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure codecs on the pictures PATHS, files or folders.

    Every point is a real file: encoded at a target, written, read back and decoded; its whole size
    counts. A target that a codec can't meet is reported as out of reach, never as a point at
    another rate. An interrupted run goes on where it was when it is started again.

    DIR gets index.html (plots, tables, a viewer), table.md, curves.svg, rows.jsonl and rows.csv,
    and the compressed files and decoded pictures themselves.
    """
    talk = Talk(quiet, verbose, as_json)
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder")

    from cdcodec import api
    from cdcodec.evaluation import datasets, study
    from cdcodec.evaluation import metrics as every_metric
    from cdcodec.evaluation.rows import FAILED
    from cdcodec.evaluation.run import Plan

    sources, notes = datasets.find([Path(path) for path in paths], sample=sample, without=folder)
    for name in datasets.impostors(sources):
        notes.append(f"{name} has the name of a Kodak picture, but is another file")
    able, left_out = study.able(
        tuple(dict.fromkeys(codecs)) or (api.DEFAULT_MODEL, *DEFAULT_ANCHORS), device
    )
    notes += left_out
    if reference is not None and reference not in able:
        raise InputError(f"{reference} is not among the codecs that are measured")
    if metrics is None:
        metrics, without_weights = every_metric.default_names()
        for metric in every_metric.known(without_weights):
            notes.append(
                f"{metric.name} is left out: its weights are not here; "
                f"`cdcodec weights add {metric.weights} FILE` adds them, "
                f"and `cdcodec weights show {metric.weights}` says from where"
            )
    for note in notes:
        talk.note(note)
    whole = [metric.name for metric in every_metric.known(metrics) if metric.whole]
    plan = Plan(
        sources=sources,
        codecs=able,
        targets=sorted(targets),
        steps=sorted(steps),
        metrics=[name for name in metrics if name not in whole],
        device=device,
        folder=folder,
    )
    command_line = shlex.join(["cdcodec", *sys.argv[1:]])
    asked = study.Study(plan, whole, tasks, reference or able[-1], viewer, command_line)
    with talk.bar("measuring", unit="files") as bar:
        made = study.conduct(asked, jobs=jobs, progress=bar)
    for point in made.points:
        talk.say(_line(point, made.metrics))
    page = folder / "index.html"
    if as_json:
        points = [dataclasses.asdict(point) for point in made.points]
        talk.report({"output": str(page), "settings": dict(made.settings), "points": points})
    else:
        click.echo(click.format_filename(str(page)))
    failed = [row for row in made.rows if row.status == FAILED]
    if failed:
        first = f"{failed[0].curve} on {failed[0].image}: {failed[0].note}"
        raise InputError(
            f"{len(failed)} of {len(made.rows)} measurements failed, the first {first}",
            hint="the same command tries them again",
        )


def _line(point: Point, metrics: Sequence[Metric]) -> str:
    """Say what a point came to, in the first few metrics."""
    if point.bpp is None:
        return f"{point.curve}, {point.target_bpp:g} bpp: out of reach"
    said = [
        f"{metric.title} {value:.{metric.digits}f}"
        for metric in metrics
        if (value := point.scores.get(metric.name)) is not None
    ]
    reached = "" if point.is_whole else f", {point.pictures} of {point.of} pictures"
    return f"{point.curve}, {point.target_bpp:g} bpp: {', '.join(said[:4])}{reached}"
