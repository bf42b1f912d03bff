"""Running other programs: how long they took, how much memory, and what they said on failure."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdcodec.errors import InputError
from cdcodec.evaluation.contender import Unavailable

TIMEOUT = 1800.0
"""Seconds; the slowest encoder takes minutes for a large picture."""

_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
silent = [(os.POSIX_SPAWN_DUP2, 2, 1)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
print(seconds, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""
# Linux counts the parent's memory at the time of a fork as the child's: under a process that holds
# networks every program would seem to need as much as those. This parent holds 10 MB.


@dataclass(frozen=True)
class Ran:
    """How a program ran.

    Attributes:
        seconds: Wall time.
        peak_bytes: Memory at most, but not below the launcher's 10 MB; None on Windows.
        output: What it said.
    """

    seconds: float
    peak_bytes: int | None
    output: str


def run(command: Sequence[str | Path], *, timeout: float = TIMEOUT) -> Ran:
    """Run a program without a shell or an input, and wait for it.

    Args:
        command: The program, by its name on PATH, and its arguments.
        timeout: In seconds.

    Raises:
        InputError: If it fails, with its last line, or takes too long; Unavailable, a kind of it,
            if it is missing.
    """
    name = str(command[0])
    words = [find(name), *map(str, command[1:])]
    measured = hasattr(os, "posix_spawn") and hasattr(os, "wait4")
    if measured:
        words = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *words]
    start = time.perf_counter()
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if measured else subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=measured,
    )
    try:
        report, output = process.communicate(timeout=timeout)
    except BaseException as error:
        _kill(process, measured)
        if isinstance(error, subprocess.TimeoutExpired):
            raise InputError(f"{name} took more than {timeout:g} seconds") from error
        raise
    seconds, peak_bytes, code = time.perf_counter() - start, None, process.returncode
    if measured and code == 0:
        first, most, status = report.split()
        seconds, code = float(first), int(status)
        peak_bytes = int(most) * (1 if sys.platform == "darwin" else 1024)
    elif not measured:
        output = report
    if code != 0:
        raise InputError(f"{name} failed: {_last_line(output) or f'exit status {code}'}")
    return Ran(seconds, peak_bytes, output)


def find(program: str) -> str:
    """Return where a program is on PATH.

    Raises:
        Unavailable: If it isn't there.
    """
    path = shutil.which(program)
    if path is None:
        raise Unavailable(f"{program} is not on PATH")
    return path


def version(program: str, option: str = "--version") -> str:
    """Return a program's first line about its version, less what depends on the machine.

    Raises:
        InputError: As run does.
    """
    lines = run([program, option], timeout=60).output.splitlines()
    line = next((line.strip() for line in lines if "version" in line or " v" in line), program)
    return line.partition(" [")[0].partition(" Copyright")[0]


def _kill(process: subprocess.Popen[str], group: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)  # the launcher and its child
        else:
            process.kill()
    process.communicate()


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""
