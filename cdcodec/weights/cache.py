"""Verified files of a weight set on this machine, fetched if need be.

Bundled files lie in the package, fetched ones in a cache whose file names are the hashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cdcodec.errors import WeightsError
from cdcodec.weights import places
from cdcodec.weights.hashes import holds, require_hash, verify_file
from cdcodec.weights.registry import BUNDLED, LOCAL, Registry, WeightFile, WeightSet, find

if TYPE_CHECKING:
    from cdcodec.weights.download import Opener

# Small files are hashed at every use. Larger ones are when they are fetched, and by `verify`:
# several gigabytes would cost every run seconds, and their name in the cache is the hash.
_HASHED_AT_EVERY_USE_BYTES = 64 << 20


class Progress(Protocol):
    """Is told how far a download is."""

    def __call__(self, bytes_done: int, bytes_total: int, /) -> None:
        """Report that `bytes_done` of `bytes_total` are here."""


def resolve(
    name: str | WeightSet,
    *,
    offline: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
    opener: Opener | None = None,
) -> list[Path]:
    """Return the files of a weight set, verified; fetch those that are missing.

    Args:
        name: The weight set, or its name.
        offline: Refuse to fetch. CDCODEC_OFFLINE in the environment does the same.
        registry: Where to look, instead of the installation's registry.
        progress: As for `fetch`.
        opener: As for `fetch`.

    Raises:
        WeightsError: A file is missing and may not be fetched, damaged, or the user's to provide.
    """
    weight_set = find(name, registry=registry) if isinstance(name, str) else name
    paths = [(file, _path(file)) for file in weight_set.files]
    if any(file.is_remote and not path.exists() for file, path in paths):
        if offline:
            raise _offline_error(weight_set)
        return fetch(weight_set.name, progress, registry=registry, opener=opener)
    return [_checked(weight_set, file, thorough=False) for file in weight_set.files]


def verify(name: str, *, registry: Registry | None = None) -> list[Path]:
    """Hash every file of a weight set, and never fetch.

    Raises:
        WeightsError: A file is missing or damaged.
    """
    weight_set = find(name, registry=registry)
    return [_checked(weight_set, file, thorough=True) for file in weight_set.files]


def fetch(
    name: str,
    progress: Progress | None = None,
    *,
    registry: Registry | None = None,
    opener: Opener | None = None,
) -> list[Path]:
    """Download what is missing or damaged of a weight set into the cache, and return its files.

    Each file goes to a temporary name and takes its own only when its hash is right. What has come
    of a file before the connection breaks stays, and the next call goes on from there.

    Args:
        name: The weight set.
        progress: Called with bytes done and bytes in all, over the files to be fetched.
        registry: Where to look, instead of the installation's registry.
        opener: What opens an address, instead of `download.open_https`.

    Raises:
        WeightsError: No network, a wrong hash, no room, or CDCODEC_OFFLINE is set.
    """
    # What speaks https takes longer to import than many a command to run.
    from cdcodec.weights.download import download, open_https

    weight_set = find(name, registry=registry)
    wanted = [file for file in weight_set.files if file.is_remote and not _is_cached(file)]
    if wanted and _offline_by_environment():
        raise _offline_error(weight_set)
    bytes_total = sum(file.bytes for file in wanted)
    bytes_done = 0
    for file in wanted:
        advance = _advance(progress, bytes_done, bytes_total)
        download(file, cached(file), opener or open_https, advance)
        bytes_done += file.bytes
    return [
        cached(file) if file.is_remote else _checked(weight_set, file, thorough=False)
        for file in weight_set.files
    ]


def cached(file: WeightFile) -> Path:
    """Return where a file is in the cache, or would be."""
    return places.cache_dir() / "sha256" / file.sha256


def _is_cached(file: WeightFile) -> bool:
    require_hash(file)
    try:
        return holds(cached(file), file)
    except OSError:
        return False


def _path(file: WeightFile) -> Path:
    """Return where a file is, or would be."""
    require_hash(file)
    if file.location == BUNDLED:
        return places.bundled_dir() / file.name
    return Path(file.location) if file.is_own else cached(file)


def _checked(weight_set: WeightSet, file: WeightFile, *, thorough: bool) -> Path:
    path = _path(file)
    bundled = file.location == BUNDLED
    if bundled:
        kind, place, repair = "bundled", "the installation", "reinstall cdcodec"
    elif file.is_own:
        kind, place = "converted", str(path.parent)
        repair = f"run: cdcodec weights convert CHECKPOINT --name {weight_set.name} --overwrite"
    elif file.location == LOCAL:
        kind, place = "added", f"the cache {places.cache_dir()}"
        repair = f"run: cdcodec weights add {weight_set.name} FILE"
        if not path.exists():
            raise WeightsError(
                f"{file.name} of {weight_set.name} is yours to provide",
                hint=f"{repair}; it comes from {weight_set.source}",
            )
    else:
        kind, place = "cached", f"the cache {places.cache_dir()}"
        repair = f"run: cdcodec weights fetch {weight_set.name}"
    if not path.exists():
        raise WeightsError(f"{file.name} of {weight_set.name} is missing from {place}", hint=repair)
    if not thorough and not bundled and file.bytes > _HASHED_AT_EVERY_USE_BYTES:
        if path.stat().st_size == file.bytes:
            return path
    try:
        verify_file(path, file)
    except WeightsError as error:
        raise WeightsError(f"{kind} weights are damaged: {error}", hint=repair) from error
    return path


def _advance(progress: Progress | None, done: int, total: int) -> Callable[[int], None]:
    return lambda length: progress(done + length, total) if progress else None


def _offline_by_environment() -> bool:
    return os.environ.get("CDCODEC_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _offline_error(weight_set: WeightSet) -> WeightsError:
    return WeightsError(
        f"{weight_set.name} is not in the cache {places.cache_dir()}, and fetching is switched off",
        hint=f"with a network, without CDCODEC_OFFLINE: cdcodec weights fetch {weight_set.name}",
    )
