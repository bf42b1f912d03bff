"""Print how long whole processes take beyond the import of torch, and their stages.

    python -m tests.benchmarks.speed PICTURE [--bpp 0.05] [--rounds 5]

Every round runs each command once, so that a busy spell of the machine hits all of them. Figures
are medians, and nothing here fails when they are bad.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median


def measure(picture: Path, bpp: str, rounds: int, folder: Path) -> None:
    """Time all commands and print a Markdown table of them."""
    packed, unpacked = str(folder / "picture.cdc"), str(folder / "picture.png")
    large = str(folder / "large.cdc")
    cdcodec = [sys.executable, "-m", "cdcodec"]
    report = ["--overwrite", "--json"]
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "--help": [*cdcodec, "--help"],
        "encode": [*cdcodec, "encode", str(picture), "-o", packed, "--bpp", bpp, *report],
        "info": [*cdcodec, "info", packed],
        "encode, palette": [
            *[*cdcodec, "encode", str(picture), "-o", large, *report],
            *["--model", "palette-nano", "--bpp", "0.2"],
        ],
        "transcode": [*cdcodec, "transcode", large, "-o", packed, "--bpp", bpp, *report],
        "decode --steps 1": [*cdcodec, "decode", packed, "-o", unpacked, "--steps=1", *report],
        "decode --steps 5": [*cdcodec, "decode", packed, "-o", unpacked, "--steps=5", *report],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    stages: dict[str, dict[str, list[float]]] = {name: {} for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            seconds[name].append(time.perf_counter() - start)
            if "--json" in command:
                for stage, duration in json.loads(output)["seconds"].items():
                    stages[name].setdefault(stage, []).append(duration)
    torch = median(seconds["import torch"])
    print("| command | s | beyond torch, s | stages, s |\n|---|---|---|---|")
    for name, times in seconds.items():
        parts = ", ".join(f"{stage} {median(each):.2f}" for stage, each in stages[name].items())
        print(f"| {name} | {median(times):.2f} | {median(times) - torch:+.2f} | {parts} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--bpp", default="0.05")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.picture, options.bpp, options.rounds, Path(folder))
