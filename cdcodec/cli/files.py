"""Where a command reads from and writes to: paths, `-` for stdin and stdout, whole files only."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cdcodec.errors import InputError

STANDARD = "-"


@dataclass(frozen=True)
class Target:
    """Where an output goes.

    Attributes:
        name: As the user would name it.
        path: The file, or None for stdout.
        overwrite: Replace the file if it is there.
    """

    name: str
    path: Path | None
    overwrite: bool = False

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
                yield from self._replaced(self.path)
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot write {self.name}: {reason}") from error

    def _replaced(self, path: Path) -> Iterator[BinaryIO]:
        path = Path(os.path.realpath(path))  # a link goes on pointing to the file
        part = path.with_name(f".cdcodec-{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as fp:
                yield fp
            if path.exists():
                self.check()  # it may have come while we worked
                shutil.copymode(path, part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise now what would only come up when everything is done.

        Raises:
            InputError: The output can't be written, or would replace something.
        """
        if self.path is None:
            if sys.stdout.isatty():
                raise InputError(
                    "not writing binary data to the terminal", hint="name a file with -o"
                )
            return
        if _is_special(self.path):
            return
        folder = Path(os.path.realpath(self.path)).parent
        if not folder.is_dir():
            raise InputError(
                f"cannot write {self.name}: there is no folder {self.path.parent}",
                hint="make it first",
            )
        if self.path.exists() and not self.overwrite:
            raise InputError(
                f"{self.name} exists already", hint="--overwrite replaces it, -o names another"
            )
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {self.name}: {folder} is not writable")


def source(name: str) -> str | BinaryIO:
    """Return what IN names: a path, or stdin.

    Raises:
        InputError: There is nothing to read.
    """
    if name == STANDARD:
        if sys.stdin.isatty():
            raise InputError("stdin is the terminal", hint="name a file, or pipe one in")
        return sys.stdin.buffer
    if os.path.isdir(name):
        raise InputError(f"cannot read {name}: it is a directory")
    if not os.path.exists(name):
        raise InputError(f"cannot read {name or repr(name)}: no such file")
    return name


def target(source_name: str, name: str | None, suffix: str, *, overwrite: bool) -> Target:
    """Return where OUT goes, checked.

    Args:
        source_name: IN.
        name: OUT: a file, a directory that takes a file of IN's name, `-`, or None for a file
            beside IN (stdout if IN is stdin).
        suffix: Of a name that is made from IN's.
        overwrite: Replace an existing file.

    Raises:
        InputError: It can't be written, would replace something, or is IN.
    """
    if name is None and source_name == STANDARD:
        name = STANDARD
    if name == STANDARD:
        chosen = Target("stdout", None)
    elif name is None:
        chosen = _named(Path(source_name).with_suffix(suffix), overwrite)
    elif not name:
        raise InputError("the name of the output is empty")
    elif not os.path.isdir(name):
        chosen = _named(Path(name), overwrite)
        if name.endswith(("/", os.sep)):
            raise InputError(f"there is no folder {name}", hint="make it first")
    elif source_name == STANDARD:
        raise InputError(f"{name} is a directory", hint="name a file in it")
    else:
        chosen = _named(Path(name, Path(source_name).stem + suffix), overwrite)
    if chosen.path is not None and _same(source_name, chosen.path):
        raise InputError(f"{source_name} is both input and output", hint="name another with -o")
    chosen.check()
    return chosen


def _named(path: Path, overwrite: bool) -> Target:
    return Target(os.fspath(path), path, overwrite)


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
