"""The registry of weight sets: names in `weights.toml`, and the files behind each.

A file is trusted for its sha256 and nothing else; one whose hash the registry does not know is
never fetched or used.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from cdcodec.errors import WeightsError
from cdcodec.weights import places
from cdcodec.weights.faults import reason

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUNDLED = "bundled"  # the file ships in the package
LOCAL = "local"  # the user has the file and adds it to the cache; never fetched
# Any other location is an https address, or where `weights convert` put the file on this machine.

# Names become file names, so they hold no separators and start with no dot.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PATH = re.compile(rf"(?:{_NAME.pattern}/)*{_NAME.pattern}|")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}|")
_MODEL_ID = re.compile(r"[0-9a-f]{8}|")


@dataclass(frozen=True)
class WeightFile:
    """One file of a weight set.

    Attributes:
        name: File name, without folders.
        sha256: 64 hex digits; empty when not known, and then the file cannot be used.
        bytes: Exact length.
        location: `BUNDLED`, `LOCAL`, an https URL that names a fixed revision, or an absolute path.
        path: Where it is in a copy of the repository that it comes from; empty where that is no
            matter, see `add_folder`.
    """

    name: str
    sha256: str
    bytes: int
    location: str
    path: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise WeightsError(f"{self.name!r} is no plain file name")
        if not _PATH.fullmatch(self.path):
            raise WeightsError(f"path of {self.name} is not plain names with / in between")
        if not _SHA256.fullmatch(self.sha256):
            raise WeightsError(f"sha256 of {self.name} is not 64 lower-case hex digits")
        if self.bytes < 0:
            raise WeightsError(f"length of {self.name} is negative")
        if self.location not in (BUNDLED, LOCAL) and not self.is_remote and not self.is_own:
            raise WeightsError(
                f"location of {self.name} is not bundled, local, an https address or a full path"
            )

    @property
    def is_remote(self) -> bool:
        """Whether it is fetched from an address."""
        return self.location.startswith("https://")

    @property
    def is_own(self) -> bool:
        """Whether it was converted on this machine, and lies where it was put."""
        return os.path.isabs(self.location)


@dataclass(frozen=True)
class WeightSet:
    """The weights of one model.

    Attributes:
        name: What `--model` takes: a plain name, or the path of a file, see `models.choose`.
        family: Which codec they are for; "perceptual" for the networks of training losses.
        preset: The family's architecture that they fit.
        licence: Terms of the weights, not of the code.
        source: Who made them, from what.
        model_id: 8 hex digits that files carry; empty when no file can refer to the set.
        files: What to load.
        measured: Figures by name, for people to choose by.
        base: The weight set whose codec makes the pictures that this one works on; empty where
            it makes its own.
    """

    name: str
    family: str
    preset: str
    licence: str
    source: str
    model_id: str
    files: tuple[WeightFile, ...]
    measured: dict[str, float] = field(default_factory=dict, hash=False)
    base: str = ""

    def __post_init__(self) -> None:
        if not self.is_file:
            check_name(self.name)
        if self.base:
            check_name(self.base)
        if self.base == self.name:
            raise WeightsError(f"{self.name} can't be its own base")
        if not _MODEL_ID.fullmatch(self.model_id):
            raise WeightsError(f"model id of {self.name} is not 8 lower-case hex digits")
        for key, value in self.measured.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise WeightsError(f"measured {key} of {self.name} is not a number")
            if not math.isfinite(value):
                raise WeightsError(f"measured {key} of {self.name} is not finite")

    @property
    def is_file(self) -> bool:
        """Whether this is a weight file named by its path, and no registered set."""
        own = bool(self.files) and self.files[0].is_own
        return own and os.path.abspath(self.name) == self.files[0].location

    @property
    def bytes(self) -> int:
        """Length of all files together."""
        return sum(file.bytes for file in self.files)


Registry: TypeAlias = Mapping[str, WeightSet]


def check_name(name: str) -> None:
    """Check that a weight set may be called so.

    Raises:
        WeightsError: It may not.
    """
    if not _NAME.fullmatch(name):
        raise WeightsError(f"{name!r} is no plain name of a weight set")


def load_registry(path: Path | None = None) -> dict[str, WeightSet]:
    """Read a registry in the order of the file.

    By default that of this installation, and after it the user's own, which can't replace any name
    of the first but one without a sha256.

    Raises:
        WeightsError: The file is unreadable, or says what it may not.
    """
    if path is None:
        installed, own = load_registry(places.registry_path()), _own_sets()
        theirs = [n for n, known in installed.items() if all(f.sha256 for f in known.files)]
        return installed | {name: own[name] for name in own if name not in theirs}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"cannot read the registry {path}: {error}") from error
    return {name: _weight_set(name, table) for name, table in tables.items()}


def _own_sets() -> dict[str, WeightSet]:
    try:
        path = places.own_registry_path()
    except RuntimeError:  # no home folder: then there is nothing in it
        return {}
    return load_registry(path) if os.path.isfile(path) else {}


def register(path: Path, weight_set: WeightSet) -> None:
    """Put `weight_set` into the registry at `path`, in place of the one of its name or at the end.

    The same registry and set always give the same bytes. Of comments, only those at the head stay.

    Raises:
        WeightsError: The registry can't be read or written.
    """
    check_name(weight_set.name)
    sets = load_registry(path) if path.exists() else {}
    sets[weight_set.name] = weight_set
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    head = re.match(r"(?:#[^\n]*\n|[ \t]*\n)*", before)
    comment = head.group().rstrip() if head else ""
    blocks = [comment] if comment else []
    blocks += [_toml_blocks(each) for each in sets.values()]
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="\n")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, UnicodeEncodeError) as error:
        raise WeightsError(f"cannot write the registry {path}: {reason(error)}") from error


def find(name: str, *, registry: Registry | None = None) -> WeightSet:
    """Look a weight set up by name.

    Raises:
        WeightsError: There is none; the hint names the nearest.
    """
    registry = load_registry() if registry is None else registry
    if name in registry:
        return registry[name]
    raise WeightsError(f"unknown weight set {name!r}", hint=_nearest(name, registry))


def by_model_id(model_id: bytes, *, registry: Registry | None = None) -> WeightSet:
    """Look up the weight set that decodes files with this id; of several, the first listed.

    Raises:
        WeightsError: No known set has the id.
    """
    registry = load_registry() if registry is None else registry
    for weight_set in registry.values():
        if weight_set.model_id and weight_set.model_id == model_id.hex():
            return weight_set
    known = [f"{each.name} ({each.model_id})" for each in registry.values() if each.model_id]
    raise WeightsError(
        f"no known weights have the model id {model_id.hex()}",
        hint="known are " + ", ".join(known) if known else None,
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "known are " + ", ".join(known)


_SET_FIELDS = {
    "family": str,
    "preset": str,
    "licence": str,
    "source": str,
    "model_id": str,
    "base": str,
    "files": list,
    "measured": dict,
}
_FILE_FIELDS = {"name": str, "sha256": str, "bytes": int, "location": str, "path": str}


def _weight_set(name: str, table: object) -> WeightSet:
    where = f"weight set {name}"
    fields = _fields(table, _SET_FIELDS, where, optional=("base", "measured"))
    files = tuple(
        WeightFile(**_fields(file, _FILE_FIELDS, f"a file of {where}", optional=("path",)))
        for file in fields["files"]
    )
    if not files:
        raise WeightsError(f"{where} has no files")
    return WeightSet(name=name, **{**fields, "files": files})


def _fields(
    table: object, types: Mapping[str, type], where: str, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise WeightsError(f"{where} is not a table")
    for key, value in table.items():
        if key not in types:
            raise WeightsError(f"unknown key {key!r} in {where}", hint=_nearest(key, types))
        if type(value) is not types[key]:
            raise WeightsError(f"{key} of {where} is not of type {types[key].__name__}")
    for key in types:
        if key not in table and key not in optional:
            raise WeightsError(f"{where} lacks {key}")
    return dict(table)


def _toml_blocks(weight_set: WeightSet) -> str:
    name = _toml_key(weight_set.name)
    keys = ["family", "preset", "licence", "source", "model_id"]
    if weight_set.base:
        keys.append("base")
    lines = [f"[{name}]", *(f"{key} = {_toml(getattr(weight_set, key))}" for key in keys)]
    for file in weight_set.files:
        lines += ["", f"[[{name}.files]]"]
        written = [key for key in _FILE_FIELDS if key != "path" or file.path]
        lines += [f"{key} = {_toml(getattr(file, key))}" for key in written]
    if weight_set.measured:
        lines += ["", f"[{name}.measured]"]
        measured = weight_set.measured.items()
        lines += [f"{_toml_key(key)} = {_toml(value)}" for key, value in measured]
    return "\n".join(lines)


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _toml(key)


def _toml(value: str | float) -> str:
    # The escapes of JSON are those of a TOML basic string, but for DEL, which TOML wants escaped.
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
