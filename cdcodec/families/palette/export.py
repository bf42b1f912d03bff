"""From the trained networks to a weight file, and back: float16, and what decides bits beside."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cdcodec.errors import WeightsError
from cdcodec.families.palette.config import METADATA_KEY, describe, parse
from cdcodec.families.palette.indices import DEFAULT
from cdcodec.families.palette.network import PaletteNetwork, build
from cdcodec.families.palette.walk import EXACT_PREFIX, PaletteWalk


def write(network: PaletteNetwork, path: Path) -> None:
    """Write a weight file, whole or not at all. Writing what was read gives the same file.

    Raises:
        OverflowError: If a weight is beyond float16's range: training has diverged.
    """
    halves = {}
    for name, tensor in network.state_dict().items():
        array = tensor.detach().cpu().numpy()
        if not np.abs(array).max() < np.finfo(np.float16).max:
            raise OverflowError(f"{name} is beyond float16: training has diverged")
        # safetensors writes an array's memory as it lies, and training keeps channels last.
        halves[name] = np.ascontiguousarray(array, np.float16)
    metadata = {METADATA_KEY: describe(network.config)}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(save({**halves, **walk_of(network, halves).arrays()}, metadata))
    os.replace(part, path)


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
    try:
        with safe_open(path, framework="pt") as file:
            metadata = str((file.metadata() or {}).get(METADATA_KEY, ""))
            names = [name for name in file.keys() if not name.startswith(EXACT_PREFIX)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name).float() for name in names}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path.name}: {error}") from error
    network = build(parse(metadata), seed=0)
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"weights {path.name} do not fit their configuration") from error
    return network
