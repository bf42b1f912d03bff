"""The run: every picture through every codec at every target, in one process or several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

from cdcodec.errors import InputError
from cdcodec.evaluation import lines, rows, work
from cdcodec.evaluation.datasets import Source
from cdcodec.evaluation.rows import Row
from cdcodec.evaluation.work import Job

ROWS = "rows.jsonl"

LAST_WORDS_SECONDS = 10.0
"""Time that a worker has to end the programs it started, once nobody waits for it any more."""

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        sources: The pictures.
        codecs: Specifications, see codecs.create.
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

    def jobs(self) -> Iterator[Job]:
        """Yield what there is to do. Codecs are outermost: a process keeps few networks."""
        for codec in self.codecs:
            contender = work.contender(codec, self.device)
            steps = contender.steps or tuple(self.steps)
            for source in self.sources:
                for target in self.targets:
                    yield Job(
                        codec=codec,
                        source=source,
                        target=target,
                        steps=steps if contender.takes_steps else (None,),
                        metrics=tuple(self.metrics),
                        device=self.device,
                        folder=self.folder,
                    )


def measure(plan: Plan, *, jobs: int = 1, progress: Progress = lambda _done, _all: None) -> None:
    """Measure what isn't measured yet, and append it to the report's rows as it comes.

    Args:
        plan: What to measure.
        jobs: Processes.
        progress: Told of files that are done.

    Raises:
        InputError: If a picture can't be read, a codec doesn't take the plan's numbers of steps, or
            a process comes to its end.
    """
    known = {row.key: row for row in rows.read(plan.folder / ROWS)}
    todo = []
    total = 0
    for job in plan.jobs():
        total += 1
        of_job = tuple(known[key] for key in job.keys if key in known)
        if len(of_job) < len(job.steps) or not all(map(job.is_done, of_job)):
            todo.append(replace(job, known=of_job))
    for codec in dict.fromkeys(job.codec for job in todo):  # where all is done, nothing is loaded
        contender = work.contender(codec, plan.device)
        contender.check_steps(contender.steps or plan.steps)
    plan.folder.mkdir(parents=True, exist_ok=True)
    done = total - len(todo)
    progress(done, total)
    with lines.appending(plan.folder / ROWS) as append:
        for measured in _measured(todo, jobs):
            for row in measured:
                append(rows.as_line(row))
            done += 1
            progress(done, total)


def wanted(plan: Plan) -> list[Row]:
    """Return the rows of a plan, in its order; other rows in the report's folder stay out."""
    known = {row.key: row for row in rows.read(plan.folder / ROWS)}
    keys = (key for job in plan.jobs() for key in job.keys)
    return [known[key] for key in keys if key in known]


def _measured(todo: Sequence[Job], jobs: int) -> Iterator[list[Row]]:
    if jobs == 1 or len(todo) < 2:
        yield from map(work.do, todo)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Threads and locks of torch don't survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(threads,))
    try:
        for future in as_completed([pool.submit(_do, job) for job in todo]):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a process came to its end", hint="it may have lacked memory: try fewer --jobs"
        ) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _do(job: Job) -> list[Row]:
    try:
        return work.do(job)
    except SystemExit:
        os._exit(1)  # else the pool takes it for the job's failure and goes on to the next


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    # As an exception it ends the programs that the job at hand has started.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LAST_WORDS_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
