"""What `--model` may be: the name of a weight set, or the path of a weight file.

A weight file takes the place of the first file of a registered set whose networks have the same
sizes. The other files of that set, and its base, are used with the weight file. So a file that
`cdcodec train` wrote can encode and decode at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cdcodec import weight_file, weights
from cdcodec.errors import WeightsError
from cdcodec.weights import WeightFile, WeightSet

SUFFIX = ".safetensors"
"""The suffix of weight files; a model with this suffix, or with a slash in its name, is a path."""


def choose(model: str) -> WeightSet:
    """Return the registered set of a name, or a set made of the weight file at a path.

    Raises:
        WeightsError: There is neither a set nor a file of that name, or the file can't code.
    """
    registry = weights.load_registry()
    if model in registry or not (is_path(model) or os.path.isfile(model)):
        return weights.find(model, registry=registry)
    path = Path(model)
    try:
        length, digest = path.stat().st_size, weights.sha256_of(path)
    except OSError as error:
        raise WeightsError(
            f"cannot read the weight file {model}: {error.strerror or error}",
            hint="--model takes a name that `cdcodec weights list` has, or the path of a file",
        ) from error
    family, description = _described(path)
    kin = [each for each in registry.values() if each.family == family]
    if kin and not any(each.model_id for each in kin):
        raise WeightsError(f"{model} is a part of other weights and cannot code by itself")
    place = _place(path, kin)
    if place is None and "preset" not in description and _need_more(kin):
        raise WeightsError(
            f"{model} has networks of other sizes than {', '.join(each.name for each in kin)}",
            hint=f"weights of family {family} need other weights beside them; cdcodec knows which "
            "ones only for networks of those sizes",
        )
    return WeightSet(
        name=model,
        family=family,
        preset=place.preset if place else str(description.get("preset", "")),
        licence="that of the file",
        source=f"the file {model}",
        model_id="",
        files=(
            WeightFile(f"weights{SUFFIX}", digest, length, os.path.abspath(path)),
            *(place.files[1:] if place else ()),
        ),
        base=place.base if place else "",
    )


def is_path(model: str) -> bool:
    """Tell by a model's name alone whether a file is meant."""
    return model.endswith(SUFFIX) or "/" in model or os.sep in model


def _described(path: Path) -> tuple[str, dict[str, object]]:
    """Return the family of a weight file, and the whole description in its metadata.

    Raises:
        WeightsError: The file is no weight file of cdcodec.
    """
    try:
        description = json.loads(weight_file.read_metadata(path))
        return str(description["family"]), description
    except (WeightsError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a weight file of cdcodec",
            hint="`cdcodec train` and `cdcodec weights convert` write such files",
        ) from error


def _place(path: Path, kin: list[WeightSet]) -> WeightSet | None:
    """Return the first set whose networks are of the same sizes as the file's."""
    shapes = weight_file.read_shapes(path)
    for each in kin:
        try:
            first = weights.resolve(each.name, offline=True)[0]
        except WeightsError:  # not on this machine, or damaged
            continue
        if weight_file.read_shapes(first) == shapes:
            return each
    return None


def _need_more(kin: list[WeightSet]) -> bool:
    return any(each.base or len(each.files) > 1 for each in kin)
