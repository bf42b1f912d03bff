"""Measure everything that RESULTS.md and docs/curves.svg tell, and write it there.

    make results PICTURES=kodak LPIPS=lpips_squeeze.safetensors

PICTURES is the folder with the Kodak set, LPIPS the weights that `cdcodec weights show
lpips-squeeze` describes. JPEG XL and HEVC need cjxl, djxl and ffmpeg on the PATH. What is in the
report's folder already isn't measured again: changing one model doesn't cost hours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cdcodec import weights

ROOT = Path(__file__).parent.parent.parent
BEGIN, END = "<!-- tables: make results -->", "<!-- end of tables -->"

ANCHORS = ("jpeg", "jpeg2000", "webp", "avif", "jxl", "hevc")
METRICS = ("psnr", "ms_ssim", "vif", "fsim", "gmsd", "haarpsi", "lpips")
TARGETS = (0.03, 0.05, 0.1, 0.2)
STEPS = {
    "cdc": (1, 2, 5),
    "rdeic": (0, 2, 5),
    "diffeic": (0, 20),
    "cgdm": (0, 9),
    "palette": (0, 1, 4),
}
"""What each family is decoded with: as good as without diffusion, and its usual numbers."""
REFERENCE = "avif"


def models() -> list[str]:
    """Return the bundled weight sets that are meant for pictures, with their numbers of steps."""
    sets = weights.load_registry().values()
    bundled = [s for s in sets if s.model_id and s.files[0].location == "bundled"]
    return [
        f"{each.name}:steps={'/'.join(map(str, STEPS[each.family]))}"
        for each in bundled
        if each.preset != "tiny"
    ]


def spliced(page: str, tables: str) -> str:
    """Return a page with tables between its markers."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise SystemExit(f"RESULTS.md must have '{BEGIN}' and '{END}' once each")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{after}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.results")
    parser.add_argument("pictures", type=Path, help="folder with the Kodak set")
    parser.add_argument("lpips", type=Path, help="weights of LPIPS with a SqueezeNet trunk")
    parser.add_argument("--report", type=Path, default=Path("report"), help="default: report")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()

    # Whatever the user has added or converted stays out of the measurement.
    environment = {**os.environ, "CDCODEC_CACHE": str(options.report.resolve() / "weights")}

    def cdcodec(*arguments: object) -> None:
        words = [sys.executable, "-m", "cdcodec", *map(str, arguments)]
        if code := subprocess.run(words, env=environment).returncode:
            raise SystemExit(code)

    cdcodec("weights", "add", "lpips-squeeze", options.lpips, "--quiet")
    codecs = [f"--codec={name}" for name in (*models(), *ANCHORS)]
    cdcodec(
        *("eval", options.pictures, *codecs, "--reference", REFERENCE, "--tasks", "faces"),
        *("--metrics", ",".join(METRICS), "--bpp", ",".join(map(str, TARGETS))),
        *("--jobs", options.jobs, "-o", options.report),
    )
    page = ROOT / "RESULTS.md"
    tables = (options.report / "table.md").read_text(encoding="utf-8")
    page.write_text(spliced(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    shutil.copyfile(options.report / "curves.svg", ROOT / "docs" / "curves.svg")


if __name__ == "__main__":
    main()
