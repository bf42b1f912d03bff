"""From the trained networks to a weight file, and back: float16, and tables beside them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cdcodec.entropy.tables import gaussian_tables
from cdcodec.errors import WeightsError
from cdcodec.families.cgdm.config import METADATA_KEY, describe, parse
from cdcodec.families.cgdm.network import CgdmNetwork, build
from cdcodec.families.cgdm.syntax import INDEX_UNIT
from cdcodec.families.cgdm.walk import EXACT_PREFIX, SyntaxTables


def write(network: CgdmNetwork, path: Path) -> None:
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
    part.write_bytes(save({**halves, **tables_of(network).arrays()}, metadata))
    os.replace(part, path)


def read(path: Path) -> CgdmNetwork:
    """Read a weight file, to decode with or to train on.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    metadata = read_metadata(path)
    network = build(parse(metadata))
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if not name.startswith(EXACT_PREFIX)]  # noqa: SIM118
        tensors = {name: file.get_tensor(name).float() for name in names}
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"weights {path.name} do not fit their configuration") from error
    return network


def read_metadata(path: Path) -> str:
    """Return what a weight file says of itself, see config.parse; empty if nothing.

    Raises:
        WeightsError: If it can't be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get(METADATA_KEY, ""))
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read weights {path.name}: {error}") from error


def tables_of(network: CgdmNetwork) -> SyntaxTables:
    """Return how the syntax vectors of a trained network are coded."""
    tables = gaussian_tables()
    # Rounded as the weight file will have it: exporting what was exported gives the same file.
    index = INDEX_UNIT * network.syntax.index.detach().half().float()
    rounded = index.round().clamp(0, len(tables) - 1).to(torch.uint8)
    return SyntaxTables(tables, rounded.cpu().numpy())
