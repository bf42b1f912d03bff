"""What tests need to run shell scripts that call `cdcodec`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def command_on_path(folder: Path) -> dict[str, str]:
    """Return an environment in which `cdcodec` is this source tree's and `python` is this one."""
    commands = folder / "commands"
    commands.mkdir(exist_ok=True)
    python = shlex.quote(sys.executable)
    for name, line in (("cdcodec", f"{python} -m cdcodec"), ("python", python)):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
