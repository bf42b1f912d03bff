"""The pictures that are measured: folders and files, a sample of them, Kodak by checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdcodec import image, weights
from cdcodec.errors import InputError

SUFFIXES = frozenset(
    ".avif .bmp .gif .jp2 .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split(),
)
"""Files of a folder that count as pictures; a file that is named by itself always does."""

KODAK = {
    "kodim01": "a56e27cbf5f843c0",
    "kodim02": "4f4b74a79237e311",
    "kodim03": "e25ca1ff2f0c0cb5",
    "kodim04": "e3b946107c5d3441",
    "kodim05": "10349e963c5c813d",
    "kodim06": "363510303b715d4c",
    "kodim07": "b77d3f006f42414b",
    "kodim08": "ba23983c76b4832e",
    "kodim09": "6a4361c2fc194feb",
    "kodim10": "9dfb70f5867c29ff",
    "kodim11": "7936814b58b5387f",
    "kodim12": "d78c37c2f04f2376",
    "kodim13": "bc34a3ce58dea09d",
    "kodim14": "55a94550ff18f324",
    "kodim15": "7538cbb80cb91036",
    "kodim16": "a89c7268ccd4718b",
    "kodim17": "37afcc89fbdcb76d",
    "kodim18": "1a9258c365988961",
    "kodim19": "b7450b264b1b0a41",
    "kodim20": "3b46c71e3b92a563",
    "kodim21": "ac958597c82073f6",
    "kodim22": "1cee58eb1f2d9c7e",
    "kodim23": "e3111a2fd4da24af",
    "kodim24": "1071c68372cc5a01",
}
"""First 16 digits of the SHA-256 of the Kodak set as r0k.us/graphics/kodak has it, 24 PNG files."""


@dataclass(frozen=True)
class Source:
    """A picture to measure with.

    Attributes:
        name: Relative to the folder that was given; unique in a dataset.
        path: The file.
        sha256: First 16 digits, of the file.
    """

    name: str
    path: Path
    sha256: str


def find(
    paths: Sequence[Path], *, sample: int | None = None, without: Path | None = None
) -> tuple[list[Source], list[str]]:
    """Return the pictures under paths, each content once, sorted by name, and notes on them.

    Args:
        paths: Files, and folders to look through with all that is in them but hidden files. What
            can't be read there is left out with a note.
        sample: Take only so many. A larger sample contains the smaller one, so that a quick look's
            results are part of the full run's.
        without: A folder to pass over: that of the report, which holds pictures too.

    Raises:
        InputError: If a path doesn't exist, a file that was named can't be read, or there is no
            picture.
    """
    sources: dict[str, Source] = {}
    names: set[str] = set()
    notes: list[str] = []
    for path in paths:
        for file in _files(path, without):
            try:
                picture = image.load(file)
            except InputError as error:
                if not path.is_dir():
                    raise
                notes.append(f"left out: {error}")
                continue
            sha256 = weights.sha256_of(file)[:16]
            if sha256 in sources:
                continue
            name = file.relative_to(path if path.is_dir() else path.parent).as_posix()
            if name in names:
                name = f"{sha256[:6]}-{name}"  # of another folder
            names.add(name)
            sources[sha256] = Source(name, file, sha256)
            if picture.alpha is not None:
                notes.append(f"{name} is measured without its alpha plane")
    if not sources:
        raise InputError(f"no pictures in {', '.join(map(str, paths))}")
    chosen = list(sources.values())
    if sample is not None:
        chosen = sorted(chosen, key=_lot)[:sample]
    return sorted(chosen, key=lambda source: source.name), notes


def described(sources: Sequence[Source]) -> str:
    """Say what a dataset is, in words: Kodak if its checksums say so."""
    kodak = sum(source.sha256 in KODAK.values() for source in sources)
    if kodak == len(sources):
        return f"Kodak, {kodak} of 24 pictures, verified by SHA-256"
    return f"{len(sources)} pictures" + (f", {kodak} of them of Kodak" if kodak else "")


def impostors(sources: Sequence[Source]) -> list[str]:
    """Return names that belong to Kodak on pictures that don't: re-encoded or resized copies."""
    return [
        source.name
        for source in sources
        if KODAK.get(Path(source.name).stem, source.sha256) != source.sha256
    ]


def _files(path: Path, without: Path | None) -> Iterator[Path]:
    if not path.exists():
        raise InputError(f"cannot read {path}: no such file or folder")
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        report = without is not None and without.resolve() in file.resolve().parents
        if file.suffix.lower() in SUFFIXES and file.is_file() and not hidden and not report:
            yield file


def _lot(source: Source) -> bytes:
    return hashlib.sha256(source.sha256.encode()).digest()
