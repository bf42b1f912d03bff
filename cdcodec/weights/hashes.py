"""The hash of a file, which is all that it is trusted for."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cdcodec.errors import WeightsError
from cdcodec.weights.faults import reason
from cdcodec.weights.registry import BUNDLED, LOCAL, WeightFile

CHUNK_BYTES = 1 << 20
"""Files are read in pieces of this length."""

_NO_HASH_HINTS = {
    BUNDLED: "export the weights first",
    LOCAL: "it is yours to provide: cdcodec weights show NAME says from where",
}


def sha256_of(path: Path) -> str:
    """Hash a file in pieces, so that its size does not matter."""
    digest = hashlib.sha256()
    with path.open("rb") as fp:
        while piece := fp.read(CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def verify_file(path: Path, expected: WeightFile) -> None:
    """Compare the file at `path`, wherever the user has it, with what the registry says of it.

    Raises:
        WeightsError: It is missing or another file.
    """
    require_hash(expected)
    try:
        length = path.stat().st_size
        if length != expected.bytes:
            problem = f"it has {length:,} bytes instead of {expected.bytes:,}"
        elif (digest := sha256_of(path)) != expected.sha256:
            problem = f"its sha256 is {digest[:16]}… instead of {expected.sha256[:16]}…"
        else:
            return
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {reason(error)}") from error
    raise WeightsError(f"{path} is not {expected.name}: {problem}")


def holds(path: Path, file: WeightFile) -> bool:
    """Tell whether the file at `path` is the registered one."""
    return path.stat().st_size == file.bytes and sha256_of(path) == file.sha256


def require_hash(file: WeightFile) -> None:
    """Check that there is a hash to compare a file with.

    Raises:
        WeightsError: The registry has none of it.
    """
    if not file.sha256:
        raise WeightsError(
            f"the registry has no sha256 of {file.name}, so it cannot be trusted",
            hint=_NO_HASH_HINTS.get(file.location),
        )
