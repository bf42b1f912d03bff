"""The registry of weight sets: from a name in `weights.toml` to verified files on this machine.

A file is trusted for its sha256 and nothing else. Bundled files lie in the package, fetched ones in
a cache whose file names are the hashes; a file whose hash the registry does not know is never
fetched or used.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import json
import math
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from cdcodec.errors import WeightsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUNDLED = "bundled"  # the file ships in the package
LOCAL = "local"  # the user has the file and adds it to the cache; never fetched
# Any other location is an https address, or where `weights convert` put the file on this machine.

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30
# A download that lives doesn't stay silent for longer: what is left of others may be taken over.
_ABANDONED_SECONDS = 4 * _TIMEOUT_SECONDS
# Small files are hashed at every use. Larger ones are when they are fetched, and by `verify`:
# several gigabytes would cost every run seconds, and their name in the cache is the hash.
_HASHED_AT_EVERY_USE_BYTES = 64 << 20

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
        if self.location not in (BUNDLED, LOCAL) and not _is_remote(self) and not _is_own(self):
            raise WeightsError(
                f"location of {self.name} is not bundled, local, an https address or a full path"
            )


@dataclass(frozen=True)
class WeightSet:
    """The weights of one model.

    Attributes:
        name: What `--model` takes.
        family: Which codec they are for; "perceptual" for the networks of training losses.
        preset: The family's architecture that they fit.
        licence: Terms of the weights, not of the code.
        source: Who made them, from what.
        model_id: 8 hex digits that files carry; empty when no file can refer to the set.
        files: What to load.
        measured: Figures by name, for people to choose by.
    """

    name: str
    family: str
    preset: str
    licence: str
    source: str
    model_id: str
    files: tuple[WeightFile, ...]
    measured: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not _MODEL_ID.fullmatch(self.model_id):
            raise WeightsError(f"model id of {self.name} is not 8 lower-case hex digits")
        for key, value in self.measured.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise WeightsError(f"measured {key} of {self.name} is not a number")
            if not math.isfinite(value):
                raise WeightsError(f"measured {key} of {self.name} is not finite")

    @property
    def bytes(self) -> int:
        """Length of all files together."""
        return sum(file.bytes for file in self.files)


Registry: TypeAlias = Mapping[str, WeightSet]
Opener: TypeAlias = Callable[[str, int], AbstractContextManager[IO[bytes]]]
"""Opens an address for reading from a byte on, or from its beginning where it can't.

Which it was the response says in `status` and `headers`, if it has them, as those of urllib do.
"""


class Progress(Protocol):
    """Is told how far a download is."""

    def __call__(self, bytes_done: int, bytes_total: int, /) -> None:
        """Report that `bytes_done` of `bytes_total` are here."""


def registry_path() -> Path:
    """Return where `weights.toml` is: in an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    for path in (package / "weights.toml", package.parent / "weights.toml"):
        if path.is_file():
            return path
    raise WeightsError("weights.toml is missing from the installation", hint="reinstall cdcodec")


def own_registry_path() -> Path:
    """Return where sets are entered that `cdcodec weights convert` made on this machine."""
    return cache_dir() / "weights.toml"


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
        installed, own = load_registry(registry_path()), _own_sets()
        theirs = [n for n, known in installed.items() if all(f.sha256 for f in known.files)]
        return installed | {name: own[name] for name in own if name not in theirs}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"cannot read the registry {path}: {error}") from error
    return {name: _weight_set(name, table) for name, table in tables.items()}


def _own_sets() -> dict[str, WeightSet]:
    try:
        path = own_registry_path()
    except RuntimeError:  # no home folder: then there is nothing in it
        return {}
    return load_registry(path) if os.path.isfile(path) else {}


def register(path: Path, weight_set: WeightSet) -> None:
    """Put `weight_set` into the registry at `path`, in place of the one of its name or at the end.

    The same registry and set always give the same bytes. Of comments, only those at the head stay.

    Raises:
        WeightsError: The registry can't be read or written.
    """
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
        raise WeightsError(f"cannot write the registry {path}: {_reason(error)}") from error


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


def resolve(
    name: str,
    *,
    offline: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
    opener: Opener | None = None,
) -> list[Path]:
    """Return the files of a weight set, verified; fetch those that are missing.

    Args:
        name: The weight set.
        offline: Refuse to fetch. CDCODEC_OFFLINE in the environment does the same.
        registry: Where to look, instead of the installation's registry.
        progress: As for `fetch`.
        opener: As for `fetch`.

    Raises:
        WeightsError: A file is missing and may not be fetched, damaged, or the user's to provide.
    """
    weight_set = find(name, registry=registry)
    paths = [(file, _path(file)) for file in weight_set.files]
    if any(_is_remote(file) and not path.exists() for file, path in paths):
        if offline:
            raise _offline_error(weight_set)
        return fetch(name, progress, registry=registry, opener=opener)
    return [_checked(weight_set, file, thorough=False) for file in weight_set.files]


def verify(name: str, *, registry: Registry | None = None) -> list[Path]:
    """Hash every file of a weight set, and never fetch.

    Raises:
        WeightsError: A file is missing or damaged.
    """
    weight_set = find(name, registry=registry)
    return [_checked(weight_set, file, thorough=True) for file in weight_set.files]


def verify_file(path: Path, expected: WeightFile) -> None:
    """Compare the file at `path`, wherever the user has it, with what the registry says of it.

    Raises:
        WeightsError: It is missing or another file.
    """
    _require_hash(expected)
    try:
        length = path.stat().st_size
        if length != expected.bytes:
            problem = f"it has {length:,} bytes instead of {expected.bytes:,}"
        elif (digest := sha256_of(path)) != expected.sha256:
            problem = f"its sha256 is {digest[:16]}… instead of {expected.sha256[:16]}…"
        else:
            return
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {_reason(error)}") from error
    raise WeightsError(f"{path} is not {expected.name}: {problem}")


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
        opener: What opens an address, instead of `open_https`.

    Raises:
        WeightsError: No network, a wrong hash, no room, or CDCODEC_OFFLINE is set.
    """
    weight_set = find(name, registry=registry)
    wanted = [file for file in weight_set.files if _is_remote(file) and not _is_cached(file)]
    if wanted and _offline_by_environment():
        raise _offline_error(weight_set)
    bytes_total = sum(file.bytes for file in wanted)
    bytes_done = 0
    for file in wanted:
        _download(file, opener or open_https, _advance(progress, bytes_done, bytes_total))
        bytes_done += file.bytes
    return [
        _cached(file) if _is_remote(file) else _checked(weight_set, file, thorough=False)
        for file in weight_set.files
    ]


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
                weight_set = load_registry(own_registry_path())[name]
    if not kept:
        places = ", ".join(file.path or file.name for file in _theirs(weight_set))
        raise WeightsError(f"{folder} has no file of {name}", hint=f"there should be {places}")
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
            raise WeightsError(f"cannot read {path}: {_reason(error)}") from error
        known = replace(expected, sha256=digest, bytes=length)
        files = tuple(known if file == expected else file for file in weight_set.files)
        weight_set, expected = replace(weight_set, files=files), known
    verify_file(path, expected)
    target = _cached(expected)
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
        raise _cache_error(error) from error
    if not vouched:
        register(own_registry_path(), weight_set)
    return target


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


def sha256_of(path: Path) -> str:
    """Hash a file in pieces, so that its size does not matter."""
    digest = hashlib.sha256()
    with path.open("rb") as fp:
        while piece := fp.read(_CHUNK_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def open_https(url: str, start: int = 0) -> AbstractContextManager[IO[bytes]]:
    """Open an https address for reading, and follow redirects to https only; see Opener."""
    _require_https(url)
    request = urllib.request.Request(url, headers={"User-Agent": "cdcodec"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_HttpsRedirects())
    response: AbstractContextManager[IO[bytes]] = opener.open(request, timeout=_TIMEOUT_SECONDS)
    return response


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Keep a redirect from leading out of https, which urllib would allow."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    if not url.startswith("https://"):
        raise WeightsError(f"{url} is not an https address")


def _download(file: WeightFile, opener: Opener, advance: Callable[[int], None]) -> None:
    target = _cached(file)
    left = target.with_name(f"{target.name}.part")  # of the last attempt
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _claim(left)
        try:
            resumed = part.stat().st_size > 0
            _append(file, opener, part, advance)
            if resumed and not _holds(part, file):
                os.truncate(part, 0)  # what was there may have been at fault
                _append(file, opener, part, advance)
            if not _holds(part, file):
                os.truncate(part, 0)
                raise _wrong_file(file)
            os.replace(part, target)
            left.unlink(missing_ok=True)
        finally:
            _release(part, left)
    except OSError as error:  # those of the network are WeightsErrors by now
        raise _cache_error(error) from error


def _claim(left: Path) -> Path:
    """Return a file of this process alone: what is left of an attempt, or an empty one."""
    part = left.with_name(f"{left.stem}.{uuid.uuid4().hex}.part")
    oldest = time.time() - _ABANDONED_SECONDS
    for path in [left, *left.parent.glob(f"{left.stem}.*.part")]:
        with contextlib.suppress(OSError):
            if path == left or path.stat().st_mtime < oldest:
                os.utime(path)
                os.replace(path, part)  # of several processes that try, one succeeds
                return part
    part.touch()
    return part


def _release(part: Path, left: Path) -> None:
    with contextlib.suppress(OSError):  # most often it isn't there any more
        if part.stat().st_size:
            os.replace(part, left)
        else:
            part.unlink()


def _append(file: WeightFile, opener: Opener, part: Path, advance: Callable[[int], None]) -> None:
    """Complete `part` by what `opener` gives, and take no more than the registered length.

    Raises:
        WeightsError: The connection breaks, or the file there is of another length.
    """
    start = part.stat().st_size
    if start >= file.bytes:
        return
    try:
        with opener(file.location, start) as response:
            length = _offset(response)
            announced = _header(response, "Content-Length")
            if length > start or (announced and length + int(announced) != file.bytes):
                os.truncate(part, 0)
                raise _wrong_file(file)
            with part.open("r+b") as fp:
                fp.truncate(length)
                fp.seek(length)
                while length <= file.bytes and (piece := response.read(_CHUNK_BYTES)):
                    length += len(piece)
                    if length > file.bytes:
                        break  # longer than registered: the rest may be endless
                    try:
                        fp.write(piece)
                    except OSError as error:
                        raise _cache_error(error) from error
                    advance(length)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        if start and isinstance(error, urllib.error.HTTPError) and error.code == 416:
            os.truncate(part, 0)  # nothing there from that byte on
            _append(file, opener, part, advance)
            return
        raise _broken(file, _reason(error)) from error
    if length > file.bytes:
        os.truncate(part, 0)
        raise _wrong_file(file)
    if length < file.bytes:
        raise _broken(file, f"it ended after {length:,} of {file.bytes:,} bytes")


def _offset(response: IO[bytes]) -> int:
    """Return which byte a response begins with."""
    if getattr(response, "status", 200) != 206:
        return 0
    first = re.match(r"bytes (\d+)-", _header(response, "Content-Range"))
    return int(first[1]) if first else 0


def _header(response: IO[bytes], name: str) -> str:
    return str(getattr(response, "headers", {}).get(name) or "")


def _holds(path: Path, file: WeightFile) -> bool:
    return path.stat().st_size == file.bytes and sha256_of(path) == file.sha256


def _broken(file: WeightFile, reason: str) -> WeightsError:
    return WeightsError(
        f"cannot download {file.location}: {reason}",
        hint="check the network and try again: what came already is kept",
    )


def _wrong_file(file: WeightFile) -> WeightsError:
    return WeightsError(
        f"{file.location} does not hold the registered {file.name}",
        hint="the file there was replaced, or damaged on its way; nothing was kept",
    )


def _advance(progress: Progress | None, done: int, total: int) -> Callable[[int], None]:
    return lambda length: progress(done + length, total) if progress else None


def _path(file: WeightFile) -> Path:
    """Return where a file is, or would be."""
    _require_hash(file)
    if file.location == BUNDLED:
        return Path(__file__).resolve().parent / "bundled" / file.name
    return Path(file.location) if _is_own(file) else _cached(file)


def _cached(file: WeightFile) -> Path:
    return cache_dir() / "sha256" / file.sha256


def _is_remote(file: WeightFile) -> bool:
    return file.location.startswith("https://")


def _is_own(file: WeightFile) -> bool:
    return os.path.isabs(file.location)


def _is_cached(file: WeightFile) -> bool:
    _require_hash(file)
    try:
        return _holds(_cached(file), file)
    except OSError:
        return False


def _checked(weight_set: WeightSet, file: WeightFile, *, thorough: bool) -> Path:
    path = _path(file)
    bundled = file.location == BUNDLED
    if bundled:
        kind, place, repair = "bundled", "the installation", "reinstall cdcodec"
    elif _is_own(file):
        kind, place = "converted", str(path.parent)
        repair = f"run: cdcodec weights convert CHECKPOINT --name {weight_set.name} --overwrite"
    elif file.location == LOCAL:
        kind, place = "added", f"the cache {cache_dir()}"
        repair = f"run: cdcodec weights add {weight_set.name} FILE"
        if not path.exists():
            raise WeightsError(
                f"{file.name} of {weight_set.name} is yours to provide",
                hint=f"{repair}; it comes from {weight_set.source}",
            )
    else:
        kind, place = "cached", f"the cache {cache_dir()}"
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


_NO_HASH_HINTS = {
    BUNDLED: "export the weights first",
    LOCAL: "it is yours to provide: cdcodec weights show NAME says from where",
}


def _require_hash(file: WeightFile) -> None:
    if not file.sha256:
        raise WeightsError(
            f"the registry has no sha256 of {file.name}, so it cannot be trusted",
            hint=_NO_HASH_HINTS.get(file.location),
        )


def _offline_by_environment() -> bool:
    return os.environ.get("CDCODEC_OFFLINE", "").lower() not in ("", "0", "false", "no")


def _offline_error(weight_set: WeightSet) -> WeightsError:
    return WeightsError(
        f"{weight_set.name} is not in the cache {cache_dir()}, and fetching is switched off",
        hint=f"with a network, without CDCODEC_OFFLINE: cdcodec weights fetch {weight_set.name}",
    )


def _cache_error(error: OSError) -> WeightsError:
    return WeightsError(
        f"cannot write to the cache {cache_dir()}: {_reason(error)}",
        hint="set CDCODEC_CACHE to a folder with room",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return (str(reason).splitlines() or [""])[0] or type(error).__name__


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
    "files": list,
    "measured": dict,
}
_FILE_FIELDS = {"name": str, "sha256": str, "bytes": int, "location": str, "path": str}


def _weight_set(name: str, table: object) -> WeightSet:
    where = f"weight set {name}"
    fields = _fields(table, _SET_FIELDS, where, optional=("measured",))
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
    keys = ("family", "preset", "licence", "source", "model_id")
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
