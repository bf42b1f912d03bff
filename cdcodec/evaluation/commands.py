"""Anybody's codec: two command lines, one that encodes to a rate and one that decodes."""

from __future__ import annotations

import hashlib
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from cdcodec import image
from cdcodec.codec import Pixels
from cdcodec.errors import InputError
from cdcodec.evaluation.anchors.processes import find, run
from cdcodec.evaluation.contender import Compressed, Restored

HOW = "NAME=cmd:'ENCODE {in} {out} {bpp}','DECODE {in} {out}'"
"""How such a codec is specified. A shell takes the quotes away."""

_SPECIFICATION = re.compile(r"([^=:]*)=cmd:(.*)", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FIELD = re.compile(r"\{(\w+)\}")
_ENCODING, _DECODING = ("in", "out", "bpp", "size"), ("in", "out")


def is_specified(specification: str) -> bool:
    """Tell whether a specification is of a codec that is run as two commands."""
    return _SPECIFICATION.fullmatch(specification) is not None


class Commands:
    """A codec that is run as two programs; see Contender.

    The encoder reads the PNG file {in} and writes the compressed file {out}, which may take {bpp}
    bits per pixel, or {size} bytes. The decoder reads the compressed file {in} and writes the PNG
    file {out}. The commands are run without a shell. If the whole compressed file takes more, the
    target is out of reach, as with any other codec.
    """

    suffix = ".bin"
    takes_steps = False
    steps: tuple[int, ...] = ()

    def __init__(self, specification: str) -> None:
        """Prepare the commands of a specification, see HOW.

        Raises:
            InputError: If it isn't one; Unavailable, a kind of it, if a program is missing.
        """
        matched = _SPECIFICATION.fullmatch(specification)
        assert matched is not None
        self.label, commands = matched.groups()
        if not _PLAIN.fullmatch(self.label):
            raise InputError(f"{self.label!r} is no plain name of a codec", hint=HOW)
        self.encoder, self.decoder = _two(self.label, commands)
        self.version = f"{commands}, files {_digest([*self.encoder, *self.decoder])}"

    def check_steps(self, steps: Sequence[int]) -> None:
        """Accept any steps: commands have none, and other codecs of the run may."""

    def encode(self, pixels: Pixels, bpp: float) -> Compressed:
        """Compress a picture; see Contender."""
        height, width = pixels.shape[:2]
        size = int(bpp * height * width / 8)
        with tempfile.TemporaryDirectory(prefix="cdcodec-") as folder:
            source, target = Path(folder, "picture.png"), Path(folder, "compressed")
            Image.fromarray(pixels).save(source, compress_level=1)
            values = {"in": str(source), "out": str(target), "bpp": f"{bpp:g}", "size": str(size)}
            ran = run(_filled(self.encoder, values))
            data = self._written(target).read_bytes()
        return Compressed(data, f"bpp={bpp:g}", {"encode": ran.seconds}, ran.peak_bytes)

    def decode(self, data: bytes, steps: int | None) -> Restored:
        """Decode a file; see Contender."""
        with tempfile.TemporaryDirectory(prefix="cdcodec-") as folder:
            source, target = Path(folder, "compressed"), Path(folder, "picture.png")
            source.write_bytes(data)
            ran = run(_filled(self.decoder, {"in": str(source), "out": str(target)}))
            pixels = image.to_srgb(image.load(self._written(target))).pixels
        return Restored(pixels, {"decode": ran.seconds}, ran.peak_bytes)

    def _written(self, path: Path) -> Path:
        if not path.is_file():
            raise InputError(f"{self.label} reported success, but did not write the file {{out}}")
        return path


def _two(name: str, text: str) -> tuple[list[str], list[str]]:
    """Return the words of both commands.

    The comma between them is the one that leaves two complete commands; other commas may be part
    of arguments.

    Raises:
        InputError: If they aren't two such commands, or it isn't clear where the second begins.
    """
    for field in _FIELD.findall(text):
        if field not in _ENCODING:
            raise InputError(f"the commands of {name} can't have {{{field}}}", hint=HOW)
    parts = text.split(",")
    halves = [(",".join(parts[:i]), ",".join(parts[i:])) for i in range(1, len(parts))]
    fitting = [half for half in halves if _encodes(half[0]) and _decodes(half[1])]
    if len(fitting) > 1:
        raise InputError(
            f"it is not clear at which comma of {name} the decoder's command begins",
            hint="put the command that has commas into a script",
        )
    if not fitting:
        raise InputError(
            f"{name} needs a command with {{in}}, {{out}} and {{bpp}} or {{size}}, a comma, and a "
            "command with {in} and {out}",
            hint=HOW,
        )
    try:
        encoder, decoder = (_words(half) for half in fitting[0])
    except ValueError as error:
        raise InputError(
            f"the quotes in the commands of {name} are not closed", hint=HOW
        ) from error
    for program in (encoder[0], decoder[0]):
        find(program)
    return encoder, decoder


def _words(command: str) -> list[str]:
    """Split a command into words, also where its quotes got past the shell."""
    words = shlex.split(command)
    return shlex.split(words[0]) if len(words) == 1 else words


def _encodes(command: str) -> bool:
    fields = set(_FIELD.findall(command))
    return fields >= {"in", "out"} and bool(fields & {"bpp", "size"})


def _decodes(command: str) -> bool:
    return set(_FIELD.findall(command)) == {*_DECODING}


def _filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    return [_FIELD.sub(lambda match: values[match[1]], word) for word in words]


def _digest(words: Sequence[str]) -> str:
    """Hash the programs and all files that the commands name: a change of them is a new version."""
    digest = hashlib.sha256()
    for path in [Path(find(words[0])), *(Path(word) for word in words[1:])]:
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
