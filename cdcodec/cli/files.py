"""Where a command reads from and writes to: paths, `-` for stdin and stdout, whole files only."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from cdcodec.errors import InputError

STANDARD = "-"


class Target:
    """Where an output goes: stdout, or the first free one of some places.

    Attributes:
        name: As the user would name it.
        path: The file, or None for stdout.
        overwrite: Replace the file if it is there.
        kept: Names that were passed over, because files of those names exist.
    """

    def __init__(self, places: Iterable[tuple[Path, bool]]) -> None:
        """Take the first place that is free.

        Args:
            places: Files, and whether each is replaced if it is there; none for stdout.
        """
        self._places = iter(places)
        self.name = "stdout"
        self.path: Path | None = None
        self.overwrite = False
        self.kept: list[str] = []
        if place := next(self._places, None):
            self._take(*place)
            while self._taken() and self._go_on():
                pass

    @property
    def is_stdout(self) -> bool:
        """Whether the output takes stdout."""
        return self.path is None

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the output for writing; it appears only when the context ends without an error.

        Raises:
            InputError: It can't be written.
        """
        try:
            if self.path is None:
                yield sys.stdout.buffer
                sys.stdout.buffer.flush()
            elif _is_special(self.path):
                with self.path.open("wb") as fp:
                    yield fp
            else:
                yield from self._whole(self.path)
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot write {self.name}: {reason}") from error

    def _whole(self, path: Path) -> Iterator[BinaryIO]:
        part = _real(path).with_name(f".cdcodec-{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as fp:
                yield fp
            while not self._put(part):  # another process may have written one meanwhile
                if not self._go_on():
                    self.check()
        finally:
            part.unlink(missing_ok=True)

    def _put(self, part: Path) -> bool:
        """Give the whole file its name; return False if another file has the name and is kept."""
        assert self.path is not None
        path = _real(self.path)  # a link goes on pointing to the file
        if self.overwrite:
            if path.exists():
                shutil.copymode(path, part)
            os.replace(part, path)
            return True
        try:
            path.open("xb").close()  # so that of several processes one gets the name
        except FileExistsError:
            return False
        try:
            os.replace(part, path)
        except BaseException:
            path.unlink()
            raise
        return True

    def _take(self, path: Path, overwrite: bool) -> None:
        self.name, self.path, self.overwrite = os.fspath(path), path, overwrite

    def _taken(self) -> bool:
        path = self.path
        return path is not None and path.exists() and not self.overwrite and not _is_special(path)

    def _go_on(self) -> bool:
        """Take the next place, if there is one."""
        place = next(self._places, None)
        if place is None:
            return False
        self.kept.append(self.name)
        self._take(*place)
        return True

    def check(self) -> None:
        """Raise now what would only come up when everything is done.

        Raises:
            InputError: The output can't be written, or would replace something.
        """
        if self.path is None:
            if sys.stdout is None:
                raise InputError("cannot write stdout: it is closed", hint="name a file with -o")
            if sys.stdout.isatty():
                raise InputError(
                    "not writing binary data to the terminal", hint="name a file with -o"
                )
            return
        if _is_special(self.path):
            return
        folder = _real(self.path).parent
        if not folder.is_dir():
            raise InputError(
                f"cannot write {self.name}: there is no folder {self.path.parent}",
                hint="make it first",
            )
        if self._taken():
            raise InputError(
                f"{self.name} exists already", hint="--overwrite replaces it, -o names another"
            )
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {self.name}: {folder} is not writable")


def source(name: str, *, several: str | None = None) -> str | BinaryIO:
    """Return what IN names: a path, or stdin.

    Args:
        name: IN.
        several: A hint at how to process all files of a folder.

    Raises:
        InputError: There is nothing to read.
    """
    if name == STANDARD:
        if sys.stdin is None:
            raise InputError("cannot read stdin: it is closed", hint="name a file, or pipe one in")
        if sys.stdin.isatty():
            raise InputError("stdin is the terminal", hint="name a file, or pipe one in")
        return sys.stdin.buffer
    if os.path.isdir(name):
        raise InputError(f"cannot read {name}: it is a directory", hint=several)
    if not os.path.exists(name):
        raise InputError(f"cannot read {name or repr(name)}: no such file")
    return name


def target(
    source_name: str, name: str | None, suffix: str, *, overwrite: bool, aside: str | None = None
) -> Target:
    """Return where OUT goes, checked.

    Args:
        source_name: IN.
        name: OUT: a file, a directory that takes a file of IN's name, `-`, or None for a file
            beside IN (stdout if IN is stdin).
        suffix: Of a name that is made from IN's.
        overwrite: Replace an existing file.
        aside: What is added to a name made from IN's if a file of that name exists: with
            "decoded", photo.png becomes photo.decoded.png, then photo.decoded-2.png. `overwrite`
            replaces photo.decoded.png, never photo.png, which may be the original. With None, an
            existing file is an error.

    Raises:
        InputError: It can't be written, would replace something, or is IN.
    """
    if name is None and source_name == STANDARD:
        name = STANDARD
    if name == STANDARD:
        chosen = Target(())
    elif name is None:
        chosen = Target(_places(Path(source_name).with_suffix(""), suffix, overwrite, aside))
    elif not name:
        raise InputError("the name of the output is empty")
    elif not os.path.isdir(name):
        chosen = Target([(Path(name), overwrite)])
        if name.endswith(("/", os.sep)):
            raise InputError(f"there is no folder {name}", hint="make it first")
    elif source_name == STANDARD:
        raise InputError(f"{name} is a directory", hint="name a file in it")
    else:
        chosen = Target(_places(Path(name, Path(source_name).stem), suffix, overwrite, aside))
    if chosen.path is not None and _same(source_name, chosen.path):
        raise InputError(f"{source_name} is both input and output", hint="name another with -o")
    chosen.check()
    return chosen


def _places(
    path: Path, suffix: str, overwrite: bool, aside: str | None
) -> Iterable[tuple[Path, bool]]:
    """Return the places of an output that the user didn't name; path has no suffix yet."""
    plain = path.with_name(path.name + suffix), overwrite
    if aside is None:
        return [plain]
    ending = suffix.removeprefix(f".{aside}")  # enhance's suffix has `aside` in it already
    first = path.with_name(f"{path.name}.{aside}{ending}"), overwrite
    more = ((path.with_name(f"{path.name}.{aside}-{k}{ending}"), False) for k in count(2))
    return chain([first] if plain == first else [(plain[0], False), first], more)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _same(source_name: str, path: Path) -> bool:
    if source_name == STANDARD:
        return False
    try:
        # A device or a pipe may well be both: there is nothing to lose.
        return os.path.samefile(source_name, path) and not _is_special(path)
    except OSError:
        return False


def _is_special(path: Path) -> bool:
    """Whether path is a device or a pipe, which is written to and never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
