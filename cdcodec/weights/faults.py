"""What to say when the system or the network lets us down."""

from __future__ import annotations

import urllib.error

from cdcodec.errors import WeightsError
from cdcodec.weights import places


def reason(error: Exception) -> str:
    """Return in one line what an exception says happened."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    said = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return (str(said).splitlines() or [""])[0] or type(error).__name__


def cache_error(error: OSError) -> WeightsError:
    """Return what to raise when the cache can't be written."""
    return WeightsError(
        f"cannot write to the cache {places.cache_dir()}: {reason(error)}",
        hint="set CDCODEC_CACHE to a folder with room",
    )
