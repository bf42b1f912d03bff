"""Where weights and registries lie: in the package, in a checkout, and in the user's cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cdcodec.errors import WeightsError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of cdcodec itself."""


def registry_path() -> Path:
    """Return where `weights.toml` is: in an installed package, or at the root of a checkout."""
    for path in (PACKAGE / "weights.toml", PACKAGE.parent / "weights.toml"):
        if path.is_file():
            return path
    raise WeightsError("weights.toml is missing from the installation", hint="reinstall cdcodec")


def own_registry_path() -> Path:
    """Return where sets are entered that `cdcodec weights convert` made on this machine."""
    return cache_dir() / "weights.toml"


def bundled_dir() -> Path:
    """Return where the weights are that ship in the package."""
    return PACKAGE / "bundled"


def cache_dir() -> Path:
    """Return where fetched files are kept: CDCODEC_CACHE, or the platform's place for caches."""
    if chosen := os.environ.get("CDCODEC_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "cdcodec"
