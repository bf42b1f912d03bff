"""The work itself: every picture through every codec at every target, and what came of it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from cdcodec import families, image, weights
from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation import anchors, memory, metrics, rows
from cdcodec.evaluation.contender import Compressed, Contender, OutOfReach
from cdcodec.evaluation.datasets import Source
from cdcodec.evaluation.own import Model
from cdcodec.evaluation.rows import Row

ROWS = "rows.jsonl"
TOLERANCE = 0.1
"""A file smaller than the target by more than this part is a point at another rate, so none."""

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        sources: The pictures.
        codecs: Specifications, NAME or NAME:OPTION=VALUE,…; see create.
        targets: Bits per pixel.
        steps: Of decoders that take them.
        metrics: Names of metrics of single pictures.
        device: Where networks run.
        folder: The report's; files, pictures and rows go there.
    """

    sources: Sequence[Source]
    codecs: Sequence[str]
    targets: Sequence[float]
    steps: Sequence[int]
    metrics: Sequence[str]
    device: str
    folder: Path


@dataclass(frozen=True)
class Job:
    """One file to make, and the numbers of steps to decode it with."""

    codec: str
    source: Source
    target: float
    steps: tuple[int | None, ...]


def create(specification: str, device: str = "auto") -> Contender:
    """Return the codec that NAME or NAME:OPTION=VALUE,OPTION=VALUE specifies.

    Raises:
        InputError: If there is no such codec or option; Unavailable, a kind of it, if it can't run
            here.
        WeightsError: If its weights can't be had.
    """
    name, _, text = specification.partition(":")
    options: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise InputError(f"options of {name} are NAME=VALUE, not {part or 'nothing'}")
        options[key] = value
    if name in anchors.NAMES:
        return anchors.create(name, options)
    models = [s.name for s in weights.load_registry().values() if s.family in families.FAMILIES]
    if name not in models:
        known = ", ".join([*models, *anchors.NAMES])
        raise InputError(f"no codec is called {name}", hint=f"known are {known}")
    return Model(name, options, device)


def measure(plan: Plan, *, jobs: int = 1, progress: Progress = lambda _done, _all: None) -> None:
    """Measure what isn't measured yet, and append it to the report's rows as it comes.

    Args:
        plan: What to measure.
        jobs: Processes.
        progress: Told of files that are done.

    Raises:
        CdcError: If a picture can't be read, or a file can't be decoded.
    """
    (plan.folder / "files").mkdir(parents=True, exist_ok=True)
    path = plan.folder / ROWS
    known = rows.read(path)
    _mend(path, known)
    todo = list(_todo(plan, known))
    total = len(plan.codecs) * len(plan.sources) * len(plan.targets)
    done = total - len(todo)
    progress(done, total)
    with path.open("a", encoding="utf-8") as file:
        for measured in _measured(plan, todo, jobs):
            file.writelines(rows.to_json(row) + "\n" for row in measured)
            file.flush()
            done += 1
            progress(done, total)


def wanted(plan: Plan) -> list[Row]:
    """Return the rows of a plan, in its order; other rows in the report's folder stay out."""
    known = {row.key: row for row in rows.read(plan.folder / ROWS)}
    keys = (key for job in _jobs(plan) for key in _keys(plan, job))
    return [known[key] for key in keys if key in known]


def _jobs(plan: Plan) -> Iterator[Job]:
    """Codecs are outermost: a process keeps few networks in memory."""
    for codec in plan.codecs:
        takes_steps = _contender(codec, plan.device).takes_steps
        steps = tuple(plan.steps) if takes_steps else (None,)
        for source in plan.sources:
            yield from (Job(codec, source, target, steps) for target in plan.targets)


def _keys(plan: Plan, job: Job) -> list[rows.Key]:
    contender = _contender(job.codec, plan.device)
    identity = job.source.name, job.source.sha256, contender.label, contender.version
    return [(*identity, job.target, steps) for steps in job.steps]


def _todo(plan: Plan, known: Sequence[Row]) -> Iterator[Job]:
    """Yield the jobs with rows that are missing, or lack a metric or a file."""

    def is_done(row: Row) -> bool:
        if row.status != rows.OK:
            return True
        there = all((plan.folder / name).is_file() for name in (row.file, row.picture))
        return there and row.scores.keys() >= set(plan.metrics)

    done = {row.key for row in known if is_done(row)}
    return (job for job in _jobs(plan) if not done.issuperset(_keys(plan, job)))


def _mend(path: Path, known: Sequence[Row]) -> None:
    """Drop half a line that a killed run left, which the next one would be glued to."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        write(path, "".join(rows.to_json(row) + "\n" for row in known).encode())


def _measured(plan: Plan, todo: Sequence[Job], jobs: int) -> Iterator[list[Row]]:
    if jobs == 1 or len(todo) < 2:
        yield from (_work(plan, job) for job in todo)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Threads and locks of torch don't survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(threads,))
    try:
        for future in as_completed([pool.submit(_work, plan, job) for job in todo]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # nobody is left to take the results

    threading.Thread(target=follow, daemon=True).start()


@lru_cache(maxsize=64)
def _contender(specification: str, device: str) -> Contender:
    return create(specification, device)


@lru_cache(maxsize=1)
def _scores(names: tuple[str, ...]) -> dict[str, metrics.Score]:
    return metrics.load(names)


@lru_cache(maxsize=1)
def load(source: Source) -> Pixels:
    """Return a picture's pixels [H, W, 3] in sRGB, without its alpha plane."""
    return image.to_srgb(image.load(source.path)).pixels


def _work(plan: Plan, job: Job) -> list[Row]:
    """Make a file, read it back, decode it, and compare."""
    contender = _contender(job.codec, plan.device)
    original = load(job.source)
    height, width = original.shape[:2]
    blank = Row(
        image=job.source.name,
        sha256=job.source.sha256,
        width=width,
        height=height,
        codec=contender.label,
        version=contender.version,
        target_bpp=job.target,
    )
    try:
        with memory.peak() as used:
            compressed = contender.encode(original, job.target)
        _require_near(compressed, job.target, width * height)
    except OutOfReach as error:
        note = error.message + (f": {error.hint}" if error.hint else "")
        return [
            replace(blank, steps=steps, status=rows.OUT_OF_REACH, note=note) for steps in job.steps
        ]
    place = Path(_plain(contender.label), f"{job.target:g}", f"{_plain(job.source.name)}")
    file = Path("files", f"{place}{contender.suffix}")
    write(plan.folder / file, compressed.data)
    blank = replace(
        blank,
        setting=compressed.setting,
        file_bytes=len(compressed.data),
        bpp=8 * len(compressed.data) / (width * height),
        encode_seconds=compressed.seconds,
        encode_peak_bytes=compressed.peak_bytes or used.bytes,
        file=file.as_posix(),
    )
    return [_decoded(plan, contender, blank, original, steps) for steps in job.steps]


def _decoded(
    plan: Plan, contender: Contender, blank: Row, original: Pixels, steps: int | None
) -> Row:
    data = (plan.folder / blank.file).read_bytes()
    with memory.peak() as used:
        restored = contender.decode(data, steps)
    way = "" if steps is None else f"-{steps}"
    picture = Path("pictures", *Path(blank.file).parts[1:])
    picture = picture.with_name(f"{picture.name.removesuffix(contender.suffix)}{way}.png")
    (plan.folder / picture).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(restored.pixels).save(plan.folder / picture, compress_level=1)
    scores = _scores(tuple(plan.metrics))
    return replace(
        blank,
        steps=steps,
        scores={name: score(original, restored.pixels) for name, score in scores.items()},
        decode_seconds=restored.seconds,
        decode_peak_bytes=restored.peak_bytes or used.bytes,
        picture=picture.as_posix(),
    )


def _require_near(compressed: Compressed, target: float, pixels: int) -> None:
    bpp = 8 * len(compressed.data) / pixels
    if bpp > target:
        raise OutOfReach(f"the smallest file has {len(compressed.data):,} bytes, {bpp:.4f} bpp")
    if bpp < (1 - TOLERANCE) * target:
        raise OutOfReach(f"the largest file below the target has {bpp:.4f} bpp")


def _plain(name: str) -> str:
    """Return a name that every file system takes and that stays one path component."""
    plain = re.sub(r"[^\w.-]+", "_", name)
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:4]}"


def write(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)
