"""The codec families: one line each in FAMILIES, one folder each beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from cdcodec import weights
from cdcodec.bitstream.container import ChunkType
from cdcodec.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from cdcodec.codec import Codec, DecoderInfo, Walk
    from cdcodec.weights import WeightSet


@dataclass(frozen=True)
class Family:
    """A family as the format knows it.

    Attributes:
        number: The id in a file's header; frozen (formats/families.md).
        module: Has `list_decoders(preset) -> Mapping[str, DecoderInfo]`, the first of which is the
            default, and `open_walk(path) -> Walk`, which both import no torch, and
            `open_codec(paths, walk, device) -> Codec`, where paths are those of the weight
            set's files. For a weight set that works on another's pictures, both take the other's
            walk or codec besides.
        chunks: Types of the chunks of side information that its files have, and no others.
    """

    number: int
    module: str
    chunks: frozenset[ChunkType] = frozenset()


FAMILIES = {
    "cdc": Family(1, "cdcodec.families.cdc"),
    "rdeic": Family(2, "cdcodec.families.rdeic"),
    "diffeic": Family(3, "cdcodec.families.diffeic"),
    "cgdm": Family(4, "cdcodec.families.cgdm", frozenset({ChunkType.SYNTAX})),
    "palette": Family(5, "cdcodec.families.palette", frozenset({ChunkType.CLUT})),
}

TRAINED_APART = {"latent": "cdcodec.latent"}
"""Networks that families share and that have a training of their own, but no files."""


def by_number(number: int) -> str:
    """Return the name of the family with this id.

    Raises:
        UnsupportedError: If this version has no such family.
    """
    for name, family in FAMILIES.items():
        if family.number == number:
            return name
    raise UnsupportedError(f"unknown family {number} needs a newer cdcodec")


def open_walk(family: str, path: Path, base: str = "", offline: bool = False) -> Walk:
    """Read the entropy-coded half of a weight file; no torch is imported.

    Args:
        family: Its family.
        path: The file.
        base: The weight set that it works on, if any.
        offline: Never fetch weights.

    Raises:
        WeightsError: If the file isn't a weight set of this family.
    """
    others = (load_walk(base, offline),) if base else ()
    return cast("Walk", _module(family).open_walk(path, *others))


@lru_cache(maxsize=8)
def load_walk(model: str | WeightSet, offline: bool = False) -> Walk:
    """Load the entropy-coded half of a weight set; no torch is imported.

    Args:
        model: A name of the registry, or what models.choose returned.
        offline: Never fetch weights.

    Raises:
        WeightsError: If the weights are unknown, missing or damaged.
    """
    if isinstance(model, str):
        return load_walk(weights.find(model), offline)
    path, *_others = weights.resolve(model, offline=offline)
    return open_walk(model.family, path, model.base, offline)


@lru_cache(maxsize=8)
def load_codec(model: str | WeightSet, device: str = "auto", offline: bool = False) -> Codec:
    """Load a weight set whole.

    Args:
        model: A name of the registry, or what models.choose returned.
        device: Where the networks run.
        offline: Never fetch weights.

    Raises:
        WeightsError: If the weights are unknown, missing or damaged.
        InputError: If the device isn't there, or the set is only a part of others.
    """
    if isinstance(model, str):
        return load_codec(weights.find(model), device, offline)
    walk = load_walk(model, offline)
    paths = weights.resolve(model, offline=offline)
    others = (load_codec(model.base, device, offline),) if model.base else ()
    return cast("Codec", _module(model.family).open_codec(paths, walk, device, *others))


def decoders(weight_set: WeightSet) -> dict[str, DecoderInfo]:
    """List the decoders of a weight set, the default first; no torch is imported.

    The weights need not be on this machine. Sets that are parts of others, or that only training
    uses, have no decoders.
    """
    if weight_set.family not in FAMILIES:
        return {}
    return dict(_module(weight_set.family).list_decoders(weight_set.preset))


def training(family: str) -> ModuleType:
    """Return the family's training module, see training.loop.Trainable."""
    module = TRAINED_APART.get(family) or FAMILIES[family].module
    return import_module(f"{module}.objectives")


def _module(family: str) -> ModuleType:
    if family in TRAINED_APART:
        raise InputError(
            f"weights of kind {family} are part of others and cannot code by themselves"
        )
    if family not in FAMILIES:
        raise UnsupportedError(f"family {family} needs a newer cdcodec")
    return import_module(FAMILIES[family].module)
