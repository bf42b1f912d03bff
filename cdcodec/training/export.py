"""Entering trained weights into the package: the last step of training.

Run as `python -m cdcodec.training.export RUN/cdc-nano.safetensors "5,000 steps on ..."`: copies the
file to cdcodec/bundled and writes its hash, model id and story into weights.toml.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cdcodec import families, weights


def bundle(path: Path, source: str, measured: Mapping[str, float] = {}) -> weights.WeightSet:  # noqa: B006
    """Make a weight file the bundled one of its name.

    Args:
        path: NAME.safetensors, where NAME is a set of the registry.
        source: Who made it, from what.
        measured: Figures; without any, those of the registry stay.

    Raises:
        WeightsError: If the file isn't a weight set of that family.
    """
    entry = weights.find(path.stem)
    apart = entry.family in families.TRAINED_APART
    model_id = b"" if apart else families.open_walk(entry.family, path, entry.base).model_id
    data = path.read_bytes()
    file = weights.WeightFile(
        path.name, hashlib.sha256(data).hexdigest(), len(data), weights.BUNDLED
    )
    target = weights.bundled_dir() / path.name
    if target.resolve() != path.resolve():
        part = target.with_name(target.name + ".part")
        part.write_bytes(data)
        os.replace(part, target)
    updated = dataclasses.replace(
        entry,
        source=source,
        model_id=model_id.hex(),
        files=_with(file, entry),
        measured=dict(measured) or entry.measured,
    )
    weights.register(weights.registry_path(), updated)
    for other in weights.load_registry(weights.registry_path()).values():
        if any(each.name == file.name for each in other.files):  # sets may share a file
            shared = dataclasses.replace(other, files=_with(file, other))
            weights.register(weights.registry_path(), shared)
    families.load_walk.cache_clear()
    for other in weights.load_registry(weights.registry_path()).values():
        if other.base == entry.name and other.model_id:  # its files hold this one's latents
            behind = dataclasses.replace(
                other, model_id=families.load_walk(other.name).model_id.hex()
            )
            weights.register(weights.registry_path(), behind)
    return updated


def _with(file: weights.WeightFile, entry: weights.WeightSet) -> tuple[weights.WeightFile, ...]:
    """Return the set's files with this one in place of that of its name."""
    return tuple(file if each.name == file.name else each for each in entry.files)


if __name__ == "__main__":
    bundle(Path(sys.argv[1]), sys.argv[2])
