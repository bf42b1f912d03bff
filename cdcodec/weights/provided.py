"""Files that are the user's to provide: copied into the cache, and known from then on."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

from cdcodec.errors import WeightsError
from cdcodec.weights import places
from cdcodec.weights.cache import cached
from cdcodec.weights.faults import cache_error, reason
from cdcodec.weights.hashes import sha256_of, verify_file
from cdcodec.weights.registry import (
    LOCAL,
    Registry,
    WeightFile,
    WeightSet,
    find,
    load_registry,
    register,
)


def add(name: str, path: Path, *, registry: Registry | None = None) -> Path:
    """Copy the user's file of a weight set into the cache, and return where it is now.

    Of a set of several files it is the one that has the name of `path`, or its place in the
    repository. If the registry has no sha256 of it, that of `path` is entered into the user's own
    registry: from then on no other file will do.

    Raises:
        WeightsError: The set has no such file, it is another file, or there is no room.
    """
    weight_set = find(name, registry=registry)
    return _add(weight_set, _expected(weight_set, path), path)


def add_folder(name: str, folder: Path, *, registry: Registry | None = None) -> list[Path]:
    """Add every file of a weight set that a copy of its repository has, and return where they are.

    Raises:
        WeightsError: The folder has none of them, or see add.
    """
    weight_set = find(name, registry=registry)
    here = {file.name: folder / (file.path or file.name) for file in _theirs(weight_set)}
    kept = []
    for file in _theirs(weight_set):
        if here[file.name].is_file():
            kept.append(_add(weight_set, file, here[file.name]))
            if not file.sha256:  # it is known from now on
                weight_set = load_registry(places.own_registry_path())[name]
    if not kept:
        wanted = ", ".join(file.path or file.name for file in _theirs(weight_set))
        raise WeightsError(f"{folder} has no file of {name}", hint=f"there should be {wanted}")
    return kept


def _theirs(weight_set: WeightSet) -> list[WeightFile]:
    """Return the files that are the user's to provide.

    Raises:
        WeightsError: There are none.
    """
    theirs = [file for file in weight_set.files if file.location == LOCAL]
    if not theirs:
        name = weight_set.name
        raise WeightsError(
            f"no file of {name} is yours to provide", hint=f"run: cdcodec weights verify {name}"
        )
    return theirs


def _expected(weight_set: WeightSet, path: Path) -> WeightFile:
    """Return which file of a set a path means: the only one, or by its name or place."""
    theirs = _theirs(weight_set)
    if len(theirs) == 1:
        return theirs[0]
    whole = "/" + Path(os.path.abspath(path)).as_posix()
    for file in theirs:
        if path.name == file.name or (file.path and whole.endswith("/" + file.path)):
            return file
    known = ", ".join(each.path or each.name for each in theirs)
    raise WeightsError(f"{weight_set.name} has no file {path.name}", hint=f"it has {known}")


def _add(weight_set: WeightSet, expected: WeightFile, path: Path) -> Path:
    vouched = bool(expected.sha256)
    if not vouched:
        try:
            length, digest = path.stat().st_size, sha256_of(path)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {reason(error)}") from error
        known = replace(expected, sha256=digest, bytes=length)
        files = tuple(known if file == expected else file for file in weight_set.files)
        weight_set, expected = replace(weight_set, files=files), known
    verify_file(path, expected)
    target = cached(expected)
    part = target.with_name(f"{expected.sha256}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, part)
            verify_file(part, expected)  # the name in the cache vouches for large files
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise cache_error(error) from error
    if not vouched:
        register(places.own_registry_path(), weight_set)
    return target
