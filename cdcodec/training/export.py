"""From a trained network to a weight file: float tensors in fp16, integer networks beside them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cdcodec import weights
from cdcodec.families.cdc.export import walk_of
from cdcodec.families.cdc.network import CdcNetwork


def half_precision(network: CdcNetwork) -> dict[str, np.ndarray]:
    """Return the network's tensors as float16, without h_s, which is stored as integers.

    Raises:
        OverflowError: If a weight is beyond float16's range; training has diverged.
    """
    tensors = {name: t.detach().cpu().numpy() for name, t in network.state_dict().items()}
    tensors = {name: t for name, t in tensors.items() if not name.startswith("h_s.")}
    for name, tensor in tensors.items():
        if not np.abs(tensor).max() < np.finfo(np.float16).max:
            raise OverflowError(f"{name} is beyond float16: training has diverged")
    return {name: tensor.astype(np.float16) for name, tensor in tensors.items()}


def export(network: CdcNetwork, path: Path) -> bytes:
    """Write a weight file, whole or not at all, and return its model id.

    Exporting what was exported gives the same file.
    """
    walk = walk_of(network)
    tensors = half_precision(network)
    data = save(
        {**tensors, **walk.arrays()},
        metadata={
            "family": "cdc",
            "config": json.dumps(dataclasses.asdict(network.config), sort_keys=True),
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
    return walk.model_id


def register(name: str, path: Path, model_id: bytes, measured: dict[str, float]) -> None:
    """Enter a bundled weight file into the registry; licence and source stay as they are."""
    data = path.read_bytes()
    entry = weights.find(name)
    file = weights.WeightFile(
        path.name, hashlib.sha256(data).hexdigest(), len(data), weights.BUNDLED
    )
    updated = dataclasses.replace(
        entry, model_id=model_id.hex(), files=(file,), measured=measured or entry.measured
    )
    weights.register(weights.registry_path(), updated)
