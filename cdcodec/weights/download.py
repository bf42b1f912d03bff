"""Downloads over https, which go on where the last attempt ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TypeAlias

from cdcodec.errors import WeightsError
from cdcodec.weights.faults import cache_error, reason
from cdcodec.weights.hashes import CHUNK_BYTES, holds
from cdcodec.weights.registry import WeightFile

_TIMEOUT_SECONDS = 30
# A download that lives doesn't stay silent for longer: what is left of others may be taken over.
_ABANDONED_SECONDS = 4 * _TIMEOUT_SECONDS

Opener: TypeAlias = Callable[[str, int], AbstractContextManager[IO[bytes]]]
"""Opens an address for reading from a byte on, or from its beginning where it can't.

Which it was the response says in `status` and `headers`, if it has them, as those of urllib do.
"""


def download(
    file: WeightFile, target: Path, opener: Opener, advance: Callable[[int], None]
) -> None:
    """Download a file to `target`, which is there whole or not at all.

    What has come before the connection breaks stays beside it, for the next call.

    Args:
        file: What is expected, and its address.
        target: Where it goes; its name without a suffix.
        opener: What opens the address.
        advance: Told of the bytes that are here.

    Raises:
        WeightsError: No network, a wrong hash, or no room.
    """
    left = target.with_name(f"{target.name}.part")  # of the last attempt
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _claim(left)
        try:
            resumed = part.stat().st_size > 0
            _append(file, opener, part, advance)
            if resumed and not holds(part, file):
                os.truncate(part, 0)  # what was there may have been at fault
                _append(file, opener, part, advance)
            if not holds(part, file):
                os.truncate(part, 0)
                raise _wrong_file(file)
            os.replace(part, target)
            left.unlink(missing_ok=True)
        finally:
            _release(part, left)
    except OSError as error:  # those of the network are WeightsErrors by now
        raise cache_error(error) from error


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
                while length <= file.bytes and (piece := response.read(CHUNK_BYTES)):
                    length += len(piece)
                    if length > file.bytes:
                        break  # longer than registered: the rest may be endless
                    try:
                        fp.write(piece)
                    except OSError as error:
                        raise cache_error(error) from error
                    advance(length)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        if start and isinstance(error, urllib.error.HTTPError) and error.code == 416:
            os.truncate(part, 0)  # nothing there from that byte on
            _append(file, opener, part, advance)
            return
        raise _broken(file, reason(error)) from error
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


def _broken(file: WeightFile, what: str) -> WeightsError:
    return WeightsError(
        f"cannot download {file.location}: {what}",
        hint="check the network and try again: what came already is kept",
    )


def _wrong_file(file: WeightFile) -> WeightsError:
    return WeightsError(
        f"{file.location} does not hold the registered {file.name}",
        hint="the file there was replaced, or damaged on its way; nothing was kept",
    )
