"""Print seconds and memory of whole `encode` and `decode` processes, the README's table.

    python -m tests.benchmarks.cost PICTURE [--steps 1 5] [--rounds 3]

PICTURE is scaled to 768x512 and to 3000x2000 pixels. Seconds are the fewest of all rounds, the
start of Python and torch included. CPU seconds are those of all cores together, and hardly depend
on what else the machine does. Memory is the most that a process ever held.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

SIZES = ((768, 512), (3000, 2000))


def run(*arguments: str) -> tuple[float, float, float]:
    """Run a command and return its seconds, CPU seconds and gigabytes."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "cdcodec", *arguments, "--quiet"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"cdcodec {' '.join(arguments)} failed")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    seconds = time.perf_counter() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cost")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 5])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| picture | command | seconds | CPU seconds | memory |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            png, cdc, again = (str(Path(folder, f"x.{end}")) for end in ("png", "cdc", "out.png"))
            with Image.open(options.picture) as picture:
                picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(png)
            commands = {"`encode`": ("encode", png, "-o", cdc, "--overwrite")}
            for steps in options.steps:
                decode = ("decode", cdc, "-o", again, "--overwrite", f"--steps={steps}")
                commands[f"`decode --steps {steps}`"] = decode
            for name, command in commands.items():
                rounds = [run(*command) for _ in range(options.rounds)]
                seconds, cpu_seconds, gigabytes = zip(*rounds, strict=True)
                cells = [f"{min(seconds):.0f}", f"{min(cpu_seconds):.0f}"]
                cells = ["{}x{}".format(*size), name, *cells, f"{max(gigabytes):.1f} GB"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
