"""From the trained networks to a weight file, and back: float16, and what decides bits beside."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdcodec import weight_file
from cdcodec.families.palette.config import describe, parse
from cdcodec.families.palette.indices import DEFAULT
from cdcodec.families.palette.network import PaletteNetwork, build
from cdcodec.families.palette.walk import PaletteWalk


def write(network: PaletteNetwork, path: Path) -> None:
    """Write a weight file, whole or not at all. Writing what was read gives the same file.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
    """
    halves = weight_file.halves(network)
    arrays = {**halves, **walk_of(network, halves).arrays()}
    weight_file.write(path, arrays, describe(network.config))


def walk_of(network: PaletteNetwork, halves: dict[str, NDArray[np.float16]]) -> PaletteWalk:
    """Return the walk of networks whose weights are rounded like that."""
    config = network.config
    # Files hold latents, which another encoder would mean something else by.
    digest = hashlib.sha256()
    for name in sorted(halves):
        if name.startswith("encoder."):
            digest.update(name.encode() + halves[name].astype("<f2").tobytes())
    return PaletteWalk(config.groups, config.channels, config.weights, DEFAULT, digest.digest()[:8])


def read(path: Path) -> PaletteNetwork:
    """Read a weight file, to decode with or to train on.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    network = build(parse(weight_file.read_metadata(path)), seed=0)
    tensors = {name: tensor.float() for name, tensor in weight_file.read_floats(path).items()}
    weight_file.fill(network, tensors, path)
    return network
