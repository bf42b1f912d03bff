"""A study: measurements, what they come to, and the files that tell of it."""

from __future__ import annotations

import contextlib
import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cdcodec import __version__
from cdcodec.errors import InputError
from cdcodec.evaluation import (
    codecs,
    datasets,
    metrics,
    plots,
    report,
    rows,
    run,
    sets,
    summary,
    tasks,
    whole,
    work,
)
from cdcodec.evaluation.contender import Unavailable
from cdcodec.evaluation.metrics import Metric, SetScore
from cdcodec.evaluation.report import Report
from cdcodec.evaluation.run import Plan, Progress

_PACKAGES = ("torch", "numpy", "pillow", "piq")


@dataclass(frozen=True)
class Study:
    """What is measured, and how it is shown.

    Attributes:
        plan: The files to make, and metrics of single pictures.
        sets: Names of metrics of whole sets of pictures.
        tasks: What detectors look for, see tasks.load.
        reference: Specification of the codec that Bjøntegaard deltas are against.
        viewer: Number of pictures that the page shows.
        command: That makes the report again.
    """

    plan: Plan
    sets: Sequence[str] = ()
    tasks: Sequence[str] = ()
    reference: str = ""
    viewer: int = 6
    command: str = ""


def able(specifications: Sequence[str], device: str) -> tuple[list[str], list[str]]:
    """Return the codecs that can run here, and a note on each that can't.

    Raises:
        InputError: If a codec is unknown, or none can run.
        WeightsError: If the weights of one can't be had.
    """
    found, notes = [], []
    for codec in specifications:
        try:
            codecs.create(codec, device)
            found.append(codec)
        except Unavailable as error:
            notes.append(f"{codec} is left out: {error}")
    if not found:
        raise InputError("none of these codecs can run here", hint="; ".join(notes))
    return found, notes


def conduct(
    study: Study,
    *,
    jobs: int = 1,
    progress: Progress = lambda _done, _all: None,
) -> Report:
    """Measure what isn't measured yet, and write the report into the plan's folder.

    The folder gets index.html, table.md, curves.svg, rows.csv, and what `run` and `whole` keep.

    Args:
        study: What to do.
        jobs: Processes.
        progress: Told of files that are done.

    Raises:
        InputError: If a picture can't be read, the report can't be written, a codec doesn't take
            the numbers of steps, a metric is unknown, or a package is missing.
        WeightsError: If a metric's weights are missing.
    """
    plan = study.plan
    metrics.load(plan.metrics)  # what is missing is said now, not after an hour
    for package in ("matplotlib", "scipy"):
        metrics.library(package)
    scorers = _scorers(study)
    try:
        run.measure(plan, jobs=jobs, progress=progress)
        return _reported(study, scorers)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write the report {plan.folder}: {reason}") from error


def _reported(study: Study, scorers: Mapping[str, SetScore]) -> Report:
    """Write the report of what was measured."""
    plan = study.plan
    found = run.wanted(plan)
    of_sets = whole.measure(plan.folder, found, plan.sources, scorers)
    shown = _shown(study)
    points = summary.points(found, of_sets)
    reference = work.contender(study.reference or plan.codecs[-1], plan.device).label
    against = next((row.curve for row in found if row.codec == reference), reference)
    made = Report(
        title="Codecs compared",
        rows=found,
        points=points,
        deltas=summary.deltas(found, against, [metric for metric in shown if not metric.whole]),
        metrics=shown,
        settings=_settings(study),
        plots=plots.svg(points, shown),
    )
    _write(made, plan, study.viewer)
    return made


def _shown(study: Study) -> list[Metric]:
    of_tasks = [metric for task in study.tasks for metric in tasks.metrics_of(task)]
    return [*metrics.known([*study.plan.metrics, *study.sets]), *of_tasks]


def _scorers(study: Study) -> dict[str, SetScore]:
    device = "cpu" if study.plan.device == "auto" else study.plan.device
    return sets.load(study.sets) | tasks.load(study.tasks, device)


def _write(made: Report, plan: Plan, viewer: int) -> None:
    originals: dict[str, Path] = {source.name: source.path for source in plan.sources}
    for name, text in (
        ("index.html", report.html(made, plan.folder, originals, viewer)),
        ("table.md", summary.markdown(made.points, made.deltas, made.metrics)),
        ("curves.svg", made.plots),
        ("rows.csv", rows.to_csv(made.rows)),
    ):
        work.write(plan.folder / name, text.encode(errors="surrogateescape"))


def _settings(study: Study) -> dict[str, str]:
    plan = study.plan
    versions = [f"cdcodec {__version__}", f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # not every metric needs them all
            versions.append(f"{name} {metadata.version(name)}")
    measured = (work.contender(codec, plan.device) for codec in plan.codecs)
    return {
        "command": study.command,
        "pictures": datasets.described(plan.sources),
        "codecs": "; ".join(f"{codec.label}: {codec.version}" for codec in measured),
        "versions": ", ".join(versions),
        "machine": f"{platform.system()} {platform.machine()}, {plan.device}",
        "date": datetime.date.today().isoformat(),
    }
